"""Area under the ROC curve of the map's pixels against the object's (Fawcett 2006), of one image: .5 by chance."""

from pipeline.families import Undefined, metric
from pipeline.maps.ranks import area_under_roc


@metric
def roc_auc(S, positive, counted):
    if positive[counted].all():
        raise Undefined("every pixel shows the object")
    return area_under_roc(S[counted], positive[counted])
