"""nbval runs every cell of the committed notebooks as a test; what counts as the same output is said in nbcompare."""

from nbcompare import compare
from nbval.plugin import IPyNbCell

IPyNbCell.compare_outputs = compare
