package mlxbridge

import (
	"math"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// stepTarget is how long a step may take unless configured: every reader then gets at least 5 tokens a second, about as
// fast as people read.
const stepTarget = 200 * time.Millisecond

// stepTime is one point of a measured curve: how long a decode step takes with that many rows.
type stepTime struct {
	rows int
	ms   float64
}

// stepTimes are the points of a curve; none of nil.
func stepTimes(c *cluster.Curve) []stepTime {
	if c == nil {
		return nil
	}
	out := make([]stepTime, len(c.Decode))
	for i, point := range c.Decode {
		out[i] = stepTime{int(point[0]), point[1]}
	}
	return believable(out)
}

// mostOverRate is how many times what fewer rows make expect a point is believed at the most.
const mostOverRate = 2

// believable lowers points that say much more than a row's share of a step with fewer rows, row for row. A step of a busy
// moment says so, and nothing would ever correct it: as many rows as that do not run again.
func believable(curve []stepTime) []stepTime {
	least := math.Inf(1) // milliseconds a row
	for i := range curve {
		p := &curve[i]
		p.ms = min(p.ms, mostOverRate*least*float64(p.rows))
		least = min(least, p.ms/float64(p.rows))
	}
	return curve
}

// slots says how many requests a model runs at once: as many as wanted, as its claim on memory holds at 1,024 tokens
// each, with the copy that a join makes, and as keep a step within the target. It is one or more. A claim of 0 is no
// bound, and neither is a curve without points.
func slots(p plan, claim int64, curve []stepTime, want int, target time.Duration) int {
	n := want
	if each := 2 * p.kv.bytes(min(p.context, rowTokens)); claim > 0 && each > 0 {
		n = min(n, int(min((claim-p.base())/each, int64(want))))
	}
	if most, ok := rowsWithin(curve, float64(target)/float64(time.Millisecond)); ok {
		n = min(n, most)
	}
	return max(n, 1)
}

// rowsWithin is the largest number of rows whose step is within most milliseconds, between the points of a curve and
// beyond its last one by straight lines. The points are ordered by rows. False means that the curve sets no bound.
func rowsWithin(curve []stepTime, most float64) (int, bool) {
	if len(curve) == 0 {
		return 0, false
	}
	for i, point := range curve {
		if point.ms <= most {
			continue
		}
		if i == 0 {
			return point.rows - 1, true // fewer were not measured; a row less is tried
		}
		return between(curve[i-1], point, most), true
	}
	if len(curve) == 1 {
		return 0, false
	}
	last, before := curve[len(curve)-1], curve[len(curve)-2]
	if last.ms <= before.ms || last.rows <= before.rows {
		return 0, false // it does not grow: no bound is in sight
	}
	return between(before, last, most), true
}

// between is the number of rows at which the line through two points reaches most milliseconds, rounded down.
func between(a, b stepTime, most float64) int {
	return a.rows + int((most-a.ms)/(b.ms-a.ms)*float64(b.rows-a.rows))
}
