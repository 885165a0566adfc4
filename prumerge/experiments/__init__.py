"""What evaluation, sweeps and finetuning share.

statistics  intervals over pictures, paired differences, significance, ranks
"""
