package bus

import "time"

// Clocks are those of streams, for tests that would wait for long.
type Clocks struct{ Alive, Reader, Silence, Absent, Linger time.Duration }

// WithClocks sets clocks; zero values stay as usual.
func (o Options) WithClocks(t Clocks) Options {
	o.timing = timing{alive: t.Alive, reader: t.Reader, silence: t.Silence, absent: t.Absent, linger: t.Linger}
	return o
}

// WithRoom has a server take few connections of this machine.
func (o ServerOptions) WithRoom(local int) ServerOptions {
	o.crowd = usualCrowd()
	o.crowd.local = local
	return o
}

// DecodeFrame reads a frame.
func DecodeFrame(data []byte) (kind string, n uint64, id string, body []byte, err error) {
	f, err := decode(data)
	return f.kind, f.n, f.id, f.body, err
}

// EncodeFrame makes a frame around a body.
func EncodeFrame(kind string, n uint64, id string, body []byte) []byte {
	return append(encodeHead(kind, n, id, len(body)), body...)
}

// MayReply is the rule for replies.
func MayReply(subject, reply string) bool { return mayReply(subject, reply) }

// RingBytes is how much of a stream may be unread.
const RingBytes = ringBytes
