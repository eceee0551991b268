package cmd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// clusterClient is what commands ask of a cluster.
type clusterClient interface {
	Generate(ctx context.Context, req *cluster.Request, emit func(cluster.Chunk) error) error
	Snapshot(ctx context.Context) (*cluster.Snapshot, error)
	Watch(ctx context.Context) (feed, error)
	Load(ctx context.Context, model string, node cluster.NodeID, pin bool) error
	Unload(ctx context.Context, model string, node cluster.NodeID, force bool) error
	Drain(ctx context.Context, node cluster.NodeID, on bool) error
	Forget(ctx context.Context, node cluster.NodeID) error
	Logs(ctx context.Context, q logQuery, line func(string) error) error
	Close()
}

// feed gives one snapshot after another, with what happened in between.
type feed interface {
	Next(ctx context.Context) (*cluster.Snapshot, []cluster.Event, error)
}

// logQuery says which lines of a node's log are wanted, or what is known of a request.
type logQuery struct {
	Request cluster.RequestID // instead of all else

	Node   cluster.NodeID
	Source string // "agent", or "worker-" and a model
	Follow bool
	Tail   int
}

// askTimeout bounds a question that has a small answer.
const askTimeout = 10 * time.Second

// bounded limits a command's talk with the cluster where the user set a limit.
func bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}

// snapshot asks the cluster in use for its state.
func (d *deps) snapshot(ctx context.Context) (*cluster.Snapshot, error) {
	cfg, err := d.config(nil)
	if err != nil {
		return nil, err
	}
	limit := cfg.Timeout
	if limit <= 0 {
		limit = askTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var s *cluster.Snapshot
	err = d.patiently(ctx, cfg, func(c clusterClient) (bool, error) {
		var err error
		s, err = c.Snapshot(ctx)
		return false, err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// findNode turns a node's name or id into its id.
func findNode(ctx context.Context, c clusterClient, name string) (cluster.NodeID, error) {
	n, err := lookUpNode(ctx, c, name)
	if err != nil {
		return "", err
	}
	return n.ID, nil
}

// lookUpNode finds a node by its name or id.
func lookUpNode(ctx context.Context, c clusterClient, name string) (*cluster.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	s, err := c.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return nodeNamed(s, name)
}

func nodeNamed(s *cluster.Snapshot, name string) (*cluster.Node, error) {
	var last *cluster.Node
	var named []cluster.NodeID
	var known []string
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if string(n.ID) == name {
			return n, nil
		}
		if strings.EqualFold(n.Name, name) {
			last, named = n, append(named, n.ID)
		}
		known = append(known, n.Name)
	}
	switch len(named) {
	case 1:
		return last, nil
	case 0:
		e := cluster.Errorf(cluster.CodeNoNode, "no node %q", name).WithHint("`mlxctl nodes` lists them")
		if near := cluster.Nearest(name, known); len(near) > 0 {
			e = e.WithHint("did you mean %q?", near[0])
		}
		return nil, &noSuchError{e}
	default:
		return nil, usagef("%d nodes are called %q; say which by its id: %s", len(named), name, strings.Trim(fmt.Sprint(named), "[]"))
	}
}
