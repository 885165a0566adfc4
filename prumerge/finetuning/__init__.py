"""LoRA fine-tuning with reduced visual tokens, on PEFT and the Hugging Face Trainer.

records        LLaVA's instruction format, read in a stream
data           an instruction file with its images, or drawn scenes
conversations  token ids, labels, batches
tuning         the training itself, through an attached reducer
arms           four arms on equal steps and data, answered question by question
costs          time and memory of a step, full against reduced
command        python -m prumerge.finetuning train | arms | cost | scenes | convert
"""
