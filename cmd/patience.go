package cmd

import (
	"context"
	"errors"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/service"
)

const (
	// awayTimeout bounds the wait for a controller of this machine that is away: one that is replaced is back in seconds.
	awayTimeout = time.Minute
	// finishTimeout bounds the wait for one that takes nothing new, since it finishes what it has before it is replaced.
	finishTimeout = defaultDrain + awayTimeout
	awayLook      = 100 * time.Millisecond
)

// patiently does something with the cluster in use. While the controller of this machine is being started again, or
// finishes what it has for that, it waits and does it anew, unless do says that it had begun: what was shown cannot be taken
// back. The wait ends with ctx.
func (d *deps) patiently(ctx context.Context, cfg *config.Config, do func(clusterClient) (begun bool, err error)) error {
	began := time.Now()
	there := began // when a controller was there last
	tick := time.NewTicker(awayLook)
	defer tick.Stop()
	for {
		begun := false
		c, err := d.connect(ctx, cfg)
		if err == nil {
			begun, err = do(c)
			c.Close()
			there = time.Now()
		}
		isOver := time.Since(there) > awayTimeout || time.Since(began) > finishTimeout
		if begun || !isAway(err) || isOver || !d.comesBack(cfg) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return err // says more
			}
			return context.Cause(ctx)
		}
	}
}

// isAway says that an error is of a controller that is not there, or about to go, and of no node.
func isAway(err error) bool {
	e := cluster.AsError(err)
	return e != nil && e.Code == cluster.CodeUnreachable && e.Node == ""
}

// comesBack says whether the controller in use is one of this machine that runs, or is about to.
func (d *deps) comesBack(cfg *config.Config) bool {
	if !isLocal(cfg) {
		return false
	}
	expected, err := service.IsExpected(d.services(homeOf(cfg), "", d.log()))
	return expected && err == nil // what is wrong is told by who starts them
}
