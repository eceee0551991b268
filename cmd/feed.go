package cmd

import (
	"context"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// lastingFeed watches a cluster for as long as it is asked to: when the feed breaks, the next call connects anew, by
// what is known then of where the controller is.
type lastingFeed struct {
	connect func(ctx context.Context) (clusterClient, error)

	client clusterClient
	feed   feed
}

// Next is called by one goroutine at a time.
func (f *lastingFeed) Next(ctx context.Context) (*cluster.Snapshot, []cluster.Event, error) {
	if f.feed == nil {
		if err := f.open(ctx); err != nil {
			return nil, nil, err
		}
	}
	s, events, err := f.feed.Next(ctx)
	if err != nil {
		f.Close()
	}
	return s, events, err
}

func (f *lastingFeed) open(ctx context.Context) error {
	askCtx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := f.connect(askCtx)
	if err != nil {
		return err
	}
	watched, err := c.Watch(ctx)
	if err != nil {
		c.Close()
		return err
	}
	f.client, f.feed = c, watched
	return nil
}

// Close ends the connection, if there is one.
func (f *lastingFeed) Close() {
	if f.client != nil {
		f.client.Close()
	}
	f.client, f.feed = nil, nil
}
