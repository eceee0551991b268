package hwmon

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

const (
	// staleAfter is the age from which a reading is taken anew, readTimeout bounds taking one.
	staleAfter  = 2 * time.Second
	readTimeout = 5 * time.Second
)

// source reads one kind of machine. Its methods are called by one goroutine at a time, except hardwareID.
type source interface {
	hardware(ctx context.Context) cluster.Hardware
	load(ctx context.Context) cluster.Load
	hardwareID(ctx context.Context) (string, error)
	// gpuLimit is what an operator lets the GPU wire, in bytes; 0 where nobody set it.
	gpuLimit() int64
}

// Options of a Monitor.
type Options struct {
	Log *slog.Logger // nil means none
}

// Monitor reads this machine. Its methods are safe for concurrent use. Close it when done.
type Monitor struct {
	src  source
	log  *slog.Logger
	ctx  context.Context //nolint:containedctx // ends the readings that run in the background when Close is called
	stop context.CancelFunc
	wg   sync.WaitGroup

	once     sync.Once
	hardware cluster.Hardware

	mu      sync.Mutex
	closed  bool
	load    cluster.Load
	takenAt time.Time     // of load; zero before the first
	reading chan struct{} // closed when the reading that runs now is done; nil while none runs
}

// New makes a Monitor of this machine. It reads nothing yet.
func New(o Options) *Monitor { return newMonitor(o, newSource()) }

func newMonitor(o Options, src source) *Monitor {
	m := &Monitor{src: src, log: o.Log}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	m.ctx, m.stop = context.WithCancel(context.Background())
	return m
}

// Close ends readings that run and waits for them. Load goes on to return the last one.
func (m *Monitor) Close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.stop()
	m.wg.Wait()
}

// Hardware says what the machine is made of. It is read once; the first call takes a fraction of a second.
func (m *Monitor) Hardware(ctx context.Context) cluster.Hardware {
	m.once.Do(func() {
		// What the first caller breaks off would be missing for ever.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		m.hardware = m.src.hardware(ctx)
	})
	return m.hardware
}

// HardwareID names the machine itself, whatever disk is in it: IOPlatformUUID on macOS, the machine id on Linux. It is
// an error where there is none.
func (m *Monitor) HardwareID(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	id, err := m.src.hardwareID(ctx)
	if err != nil {
		return "", fmt.Errorf("read hardware id: %w", err)
	}
	return id, nil
}

// Budget is what models may use on this machine in all, in bytes; 0 where its memory is unknown. A limit that an
// operator gave the GPU counts; else it is DefaultBudget.
func (m *Monitor) Budget(ctx context.Context) int64 {
	hw := m.Hardware(ctx)
	if limit := m.src.gpuLimit(); limit > 0 && limit < hw.MemoryBytes {
		return limit
	}
	return DefaultBudget(hw)
}

// Load returns the newest reading, and has one older than two seconds taken anew in the background. Only the first
// call waits for its reading, at most until ctx ends.
func (m *Monitor) Load(ctx context.Context) cluster.Load {
	m.mu.Lock()
	if !m.closed && m.reading == nil && (m.takenAt.IsZero() || time.Since(m.takenAt) >= staleAfter) {
		m.reading = make(chan struct{})
		m.wg.Go(m.read)
	}
	load, done := m.load, m.reading
	wait := m.takenAt.IsZero() && done != nil
	m.mu.Unlock()
	if !wait {
		return load
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.load
}

func (m *Monitor) read() {
	ctx, cancel := context.WithTimeout(m.ctx, readTimeout)
	defer cancel()
	load := m.src.load(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() == nil {
		m.load = load
	}
	m.takenAt = time.Now()
	close(m.reading)
	m.reading = nil
}
