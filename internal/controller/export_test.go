package controller

import "time"

// WithLinger has the controller keep the streams of a node without a connection for longer.
func (o Options) WithLinger(d time.Duration) Options {
	o.linger = d
	return o
}
