"""The embedded models: the scenes they see, the questions they are asked, and their training.

glyphs, scenes    digits and shapes as masks; pictures drawn from them with the truth
photographs       those that installed packages bring along
styles, grounds   how scenes of each model look: colours, sizes, noise or photographs behind
families          one function per kind of question
questions         many of them, those held out for tests, what is right, and captions
model             the mini-LLaVA in stock classes, words and processors of both
pocket, features  the model behind a frozen pretrained tower, whose features are kept on disk
batches, losses   what a step of training sees and learns
training, export  stages, resumable; a checkpoint that stock transformers loads
"""
