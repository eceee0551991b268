package cmd

import (
	"context"
	"errors"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/service"
)

// nodesLock is held by every command that changes other machines, so that two of them do not interleave. It is not the lock
// of the services: those can be started and stopped meanwhile.
const nodesLock = "nodes.lock"

// lockSoon is how long a lock may take before somebody is told that another command has it.
const lockSoon = 200 * time.Millisecond

// acquireNodes waits for the lock, and says so when it has to.
func (d *deps) acquireNodes(ctx context.Context, home string) (func(), error) {
	soon, cancel := context.WithTimeout(ctx, lockSoon)
	defer cancel()
	release, err := service.Lock(soon, home, nodesLock)
	if err == nil || soon.Err() == nil {
		return release, err
	}
	if err := d.say("waiting for another mlxctl that changes the machines of this cluster"); err != nil {
		return nil, err
	}
	release, err = service.Lock(ctx, home, nodesLock)
	if err != nil && ctx.Err() != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return nil, cluster.Errorf(cluster.CodeTimeout, "another mlxctl still changes the machines of this cluster").
			WithHint("let it end, or end it")
	}
	return release, err
}
