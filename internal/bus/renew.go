package bus

import (
	"context"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// renewLook is how often Renew looks whether the connection is back.
const renewLook = 5 * time.Millisecond

// Renew ends the connection and makes it again at once, with the credentials as they are now, and returns when that is
// done or ctx ends. What runs over it goes on as after any lost connection, only sooner than when the server ends it.
func (c *Conn) Renew(ctx context.Context) error {
	before := c.connectCount()
	if err := c.nats.ForceReconnect(); err != nil {
		return c.sendError(err, 0)
	}
	tick := time.NewTicker(renewLook)
	defer tick.Stop()
	for c.connectCount() == before {
		select {
		case <-ctx.Done():
			return cluster.Errorf(cluster.CodeTimeout, "the connection to the bus is not back")
		case <-tick.C:
		}
	}
	return nil
}

func (c *Conn) connectCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connects
}
