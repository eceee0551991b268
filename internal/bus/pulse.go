package bus

import "time"

// pulse gives signs of life for all streams of the connection, and finds out why it is away. It works only while there
// is something to look after.
func (c *Conn) pulse() {
	tick := time.NewTicker(c.o.timing.pulse)
	defer tick.Stop()
	connects := 0
	for {
		select {
		case <-c.quit:
			return
		case <-c.stir:
			tick.Reset(c.o.timing.pulse)
		case <-tick.C:
		}
		if !c.up.Load() {
			c.trouble(c.nats.LastError()) // nats tells some errors only when it is asked
		}
		if !c.beat(time.Now(), &connects) && c.up.Load() {
			tick.Stop()
			// Whoever came meanwhile has stirred.
		}
	}
}

// beat says whether there is something to look after.
func (c *Conn) beat(now time.Time, connects *int) bool {
	c.mu.Lock()
	reconnected := c.connects != *connects && c.reason == nil
	if reconnected {
		*connects = c.connects
	}
	readers := make([]*Stream, 0, len(c.readers))
	for s := range c.readers {
		readers = append(readers, s)
	}
	muxes := make([]*mux, 0, len(c.muxes))
	for _, m := range c.muxes {
		muxes = append(muxes, m)
	}
	var owed []order
	if reconnected {
		owed, c.owed = c.owed, nil
	}
	c.mu.Unlock()
	for _, o := range owed {
		_ = c.send(o.subject, o.reply, o.data) // lost again, the sender finds out by itself
	}
	busy := len(readers) > 0
	for _, s := range readers {
		if reconnected {
			s.reconnected()
		}
		s.pulse(now)
	}
	for _, m := range muxes {
		busy = m.pulse(now, reconnected) || busy
	}
	return busy
}

// owe keeps a message for the next connect.
func (c *Conn) owe(o order) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.owed) < maxOwed {
		c.owed = append(c.owed, o)
	}
}
