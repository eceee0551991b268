package tui

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// plainGap is the time between two lines on a terminal that cannot move its cursor.
const plainGap = time.Second

// plain writes one line a second, and one for every event, without a single escape sequence, until ctx ends.
func plain(ctx context.Context, p *pump, out io.Writer) error {
	c := cleaner{plain: true}
	for gap := time.Duration(0); ; gap = plainGap {
		u, ok := p.take(ctx, gap)
		if !ok {
			return context.Cause(ctx)
		}
		if err := writePlain(out, c, u); err != nil {
			return fmt.Errorf("write line: %w", err)
		}
	}
}

func writePlain(out io.Writer, c cleaner, u update) error {
	for _, e := range u.events {
		e = c.event(e)
		if _, err := fmt.Fprintf(out, "%s event %s\n", e.At.Local().Format(time.TimeOnly), e.Message); err != nil {
			return err
		}
	}
	var err error
	switch s := u.snapshot; {
	case u.err != nil:
		_, err = fmt.Fprintf(out, "%s reconnecting: %s\n", time.Now().Format(time.TimeOnly), c.err(u.err).Message)
	case s != nil:
		ready := 0
		for i := range s.Nodes {
			if s.Nodes[i].State == cluster.NodeReady {
				ready++
			}
		}
		_, err = fmt.Fprintf(out, "%s %d/%d nodes ready, %d requests, %s tok/s, %s tokens, %s done, %s failed\n",
			s.At.Local().Format(time.TimeOnly), ready, len(s.Nodes), len(s.Requests), rate(s.Totals.TokensPerSecond),
			count(s.Totals.Tokens), count(s.Totals.Finished), count(s.Totals.Failed))
	}
	return err
}
