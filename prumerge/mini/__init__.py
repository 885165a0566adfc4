"""The embedded mini-LLaVA: the scenes it sees, the questions it is asked, and its training.

glyphs, scenes    digits and shapes as masks; pictures drawn from them with the truth
families          one function per kind of question
questions         many of them, those held out for tests, what is right, and captions
model             the model in stock classes, its words, its processor
batches, losses   what a step of training sees and learns
training, export  stages, resumable; a checkpoint that stock transformers loads
"""
