package share

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// chunkBytes is what a chunk takes beside its text.
const chunkBytes = 400

// Answer is one generation with any number of readers.
type Answer struct {
	set    *Answers
	key    Key
	cancel context.CancelCauseFunc

	// Guarded by set.mu.
	readers  int
	finished time.Time
	element  *list.Element // of set.kept; nil while it is live

	mu       sync.Mutex
	chunks   []cluster.Chunk
	progress *cluster.Chunk // the newest, until the first chunk of the answer
	news     int            // how often progress changed
	bytes    int64          // set.mu guards it as well, once the answer has ended
	over     bool
	err      error
	changed  chan struct{} // closed, and made again, at every change
}

// Follow hands the answer to emit from its beginning on, in order, from this goroutine, and returns after its last chunk,
// or with the error that ended it, or that of emit or ctx. A slow reader holds up nobody else. Chunks may be shared with
// other readers: what they point to must not be changed.
func (n *Answer) Follow(ctx context.Context, emit func(cluster.Chunk) error) error {
	defer n.set.leave(n)
	at, news := 0, 0
	for {
		n.mu.Lock()
		fresh, progress, over, err, changed := n.chunks[at:], n.progress, n.over, n.err, n.changed
		isNews := n.news != news
		news = n.news
		n.mu.Unlock()
		if progress != nil && isNews {
			if err := emit(*progress); err != nil {
				return err
			}
		}
		for _, c := range fresh {
			if err := emit(c); err != nil {
				return err
			}
		}
		at += len(fresh)
		if over {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (n *Answer) append(c cluster.Chunk) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.Progress != nil {
		n.progress = &c
		n.news++
	} else {
		n.progress = nil
		n.chunks = append(n.chunks, c)
		n.bytes += sizeOf(&c)
	}
	n.wake()
}

func (n *Answer) end(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.over, n.err, n.progress = true, err, nil
	n.wake()
}

func (n *Answer) wake() {
	close(n.changed)
	n.changed = make(chan struct{})
}

func sizeOf(c *cluster.Chunk) int64 {
	size := chunkBytes + int64(len(c.Text)+len(c.Reasoning)+8*len(c.Tokens))
	for i := range c.ToolCalls {
		size += chunkBytes/4 + int64(len(c.ToolCalls[i].ID)+len(c.ToolCalls[i].Name)+len(c.ToolCalls[i].Arguments))
	}
	for i := range c.Logprobs {
		size += 100 * int64(1+len(c.Logprobs[i].Top))
	}
	return size
}
