package agent

import (
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// WithClocks has an agent do things more often, and believe another clock.
func (o Options) WithClocks(beat, scan, watch time.Duration, clock func() time.Duration) Options {
	o.beatEvery, o.scanEvery, o.watchEvery, o.clock = beat, scan, watch, clock
	return o
}

// LogOf is the file of a source.
func LogOf(source string) (string, error) { return logOf(source) }

// Recent remembers attempts.
type Recent = recent

// Add says whether an attempt is new.
func (r *Recent) Add(id string, now time.Duration) bool { return r.add(cluster.AttemptID(id), now) }
