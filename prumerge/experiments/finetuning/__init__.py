"""LoRA fine-tuning with reduced visual tokens, on PEFT and the Hugging Face Trainer.

``train`` takes any family of :mod:`prumerge.models.families` and its pictures, and clips for a
Video-LLaVA, LLaVA-NeXT-Video or LLaVA-OneVision; ``arms`` and ``cost`` take a LLaVA-1.5 or
LLaVA-NeXT.

data      an instruction file with its pictures and clips, or drawn scenes
samples   a record as token ids, labels and the model's other inputs; batches of them
tuning    the training itself, through an attached reducer
arms      five arms on equal steps and data, answered question by question; what a step costs
__main__  python -m prumerge.finetuning train | arms | cost | scenes | convert
"""
