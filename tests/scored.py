"""Given answers, scored by the harness: what a task makes of a perfect or a random model."""

from lmms_eval.api.model import lmms

from prumerge.experiments.evaluation import comparison
from prumerge.experiments.evaluation.harness import Effort
from prumerge.experiments.evaluation.results import questions_of
from prumerge.experiments.evaluation.tasks import task_manager


class Parrot(lmms):
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self, answers):
        super().__init__()
        self.answers, self.asked = answers, {task: [] for task in answers}

    def generate_until(self, requests):
        for request in requests:
            self.asked[request.args[4]].append(request.args[0])
        return [self.answers[request.args[4]][request.args[3]] for request in requests]

    def loglikelihood(self, requests):
        raise NotImplementedError

    generate_until_multi_round = loglikelihood


def results_of(parrot, tasks=None):
    """Let it answer; return what the harness returns."""
    return comparison.evaluator.simple_evaluate(
        model=parrot,
        tasks=list(tasks or parrot.answers),
        task_manager=task_manager(),
        bootstrap_iters=0,
        log_samples=True,
        cli_args=comparison.NO_PICTURES,
    )


def values_of(results):
    """Values by task and metric."""
    return {
        (task, metric.split(",")[0]): value
        for task, scores in results["results"].items()
        for metric, value in scores.items()
    }


def scored(answers, tasks=None):
    """Score answers by task; return values by task and metric, and prompts by task."""
    parrot = Parrot(answers)
    return values_of(results_of(parrot, tasks)), parrot.asked


def scored_questions(answers, tasks=None):
    """Score answers by task; return values by task and metric, and the row of each question."""
    results = results_of(Parrot(answers), tasks)
    efforts = {task: Effort(dict.fromkeys(range(999), 7)) for task in results["samples"]}
    return values_of(results), questions_of(results, efforts)
