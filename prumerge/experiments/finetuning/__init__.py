"""LoRA fine-tuning with reduced visual tokens, on PEFT and the Hugging Face Trainer.

``train`` takes pictures and any family of :mod:`prumerge.models.families` but Video-LLaVA; ``arms``
and what a step costs are LLaVA-1.5's, the latter LLaVA-NeXT's too.

data      an instruction file with its images, or drawn scenes, as token ids and labels
tuning    the training itself, through an attached reducer
arms      five arms on equal steps and data, answered question by question; what a step costs
__main__  python -m prumerge.finetuning train | arms | cost | scenes | convert
"""
