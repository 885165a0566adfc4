"""LoRA fine-tuning with reduced visual tokens, on PEFT and the Hugging Face Trainer.

data      an instruction file with its images, or drawn scenes, as token ids and labels
tuning    the training itself, through an attached reducer
arms      five arms on equal steps and data, answered question by question; what a step costs
__main__  python -m prumerge.finetuning train | arms | cost | scenes | convert
"""
