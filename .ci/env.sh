# One environment for recording and for checking notebooks: source it, do not run it.
# An output recorded with a progress bar, another thread count or a warning fails when checked without.

# Tiny matrices: several threads cost more in waiting than they bring, and change last digits.
export OMP_NUM_THREADS=1
export TOKENIZERS_PARALLELISM=false

# Nothing is fetched: a slip becomes an error instead of a download.
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" # 0 lets `make run` fetch a model of the hub
export HF_DATASETS_OFFLINE="$HF_HUB_OFFLINE" # its own value would win over the one above
export HF_HUB_DISABLE_TELEMETRY=1

# Bars and notices carry times and process ids.
export TQDM_DISABLE=1
export HF_HUB_DISABLE_PROGRESS_BARS=1
export HF_DATASETS_DISABLE_PROGRESS_BARS=1 # shown the first time a data set is read, whatever TQDM says
export TRANSFORMERS_VERBOSITY=error
export PYDEVD_DISABLE_FILE_VALIDATION=1

export PYTHONHASHSEED=0
# Each module is compiled once, and not in every one of a hundred processes.
unset PYTHONDONTWRITEBYTECODE
# The user's own IPython profile must not reach the kernels, nor their history file.
IPYTHONDIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/ipython"
export IPYTHONDIR
