"""What every process of a comparison imports: once, where they are forked from one."""

from xdc_tf.runtime import program

program.quiet_tensorflow()

from xdc_tf.evaluation import labelled_records, protocols  # noqa: E402, F401
from xdc_tf.training import pretrain  # noqa: E402, F401
