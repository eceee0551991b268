package controller

import (
	"context"
	"sync"

	"github.com/mlxctl/mlxctl/internal/bus"
)

// finishing are the services whose streams come to an end by themselves. The zero value has none.
type finishing struct {
	mu       sync.Mutex
	services []*bus.Subscription // guarded by mu
}

func (f *finishing) add(s *bus.Subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.services = append(f.services, s)
}

// Finish has requests that came over the bus answered to their ends, and takes no more from there: those are refused with
// CodeUnreachable, and may come again to the controller that follows. It returns when clients have read their answers, or
// when ctx ends. Feeds and logs, which have no end, go on until Run ends, as does what comes by Dispatch.
func (c *Controller) Finish(ctx context.Context) {
	c.answers.mu.Lock()
	services := c.answers.services
	c.answers.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range services {
		wg.Go(func() { s.Finish(ctx) })
	}
	wg.Wait()
}
