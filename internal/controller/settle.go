package controller

import (
	"context"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// whenBack calls find until it succeeds, or fails for a reason that no other node would mend, as mends says. A controller
// that just started calls it again as nodes come back to it; one that did not calls it once.
func (c *Controller) whenBack(ctx context.Context, mends func(error) bool, find func() error) error {
	for {
		news, settling := c.registry.news(), c.isSettling()
		err := find()
		if err == nil || !settling || !mends(err) {
			return err
		}
		select {
		case <-news:
		case <-c.settled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lacksNodes says whether another node could change the answer.
func lacksNodes(err error) bool {
	switch cluster.CodeOf(err) {
	case cluster.CodeNoNode, cluster.CodeNoModel, cluster.CodeNoFit, cluster.CodeBadModel, cluster.CodeQuarantined,
		cluster.CodeUnsupported, cluster.CodeConflict:
		return true
	default:
		return false
	}
}

// lacksReadyNodes is lacksNodes for what no queue takes: a node that is there and has told nothing of itself yet counts
// as busy, and is waited for here.
func lacksReadyNodes(err error) bool {
	return lacksNodes(err) || cluster.CodeOf(err) == cluster.CodeBusy
}

// isSettling says whether nodes that were there before this controller started may not have come back yet.
func (c *Controller) isSettling() bool {
	select {
	case <-c.settled:
		return false
	default:
		return true
	}
}
