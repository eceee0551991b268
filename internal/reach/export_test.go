package reach

import "time"

// WithClocks gives the controller another head start, and discovery other pauses.
func (o Options) WithClocks(head, between time.Duration) Options {
	o.head, o.between = head, between
	return o
}

// WithProof gives who calls another time to prove that it is the controller.
func (o Options) WithProof(d time.Duration) Options {
	o.proof = d
	return o
}

// WithClock has the targets looked up, and called, more often.
func (t *Tunnels) WithClock(every time.Duration) *Tunnels {
	t.every, t.least = every, every
	return t
}

// MostCalls is how many callers may be unproven.
const MostCalls = mostCalls
