"""What evaluation, sweeps, timing and finetuning share.

attention   how uneven it is, by block and head; how much of a picture kept patches see
statistics  intervals over pictures, paired differences, significance, ranks
"""
