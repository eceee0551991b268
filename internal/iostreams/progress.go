package iostreams

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Progress shows steps of something slow on stderr. On a terminal it redraws one line, at most ten times a second; elsewhere
// it prints one line for each change of step. Methods are safe for concurrent use; Close must be called.
type Progress struct {
	s     *IOStreams
	now   func() time.Time
	quiet bool
	stop  chan struct{}
	wg    sync.WaitGroup

	mu      sync.Mutex
	step    string
	started time.Time
	drawn   bool
	frame   int
	paused  bool
}

// NewProgress starts a progress display; a quiet one shows nothing.
func (s *IOStreams) NewProgress(quiet bool) *Progress {
	p := &Progress{s: s, now: time.Now, quiet: quiet, stop: make(chan struct{})}
	if s.errTTY && !quiet {
		p.wg.Go(p.animate)
	}
	return p
}

// everyLine is how often a long step says how far it is where lines cannot be drawn over.
const everyLine = 10 * time.Second

// Step says what is being done now; the same step again changes nothing. What stands behind ": " is how far it is: a
// terminal shows each, a log file one line in ten seconds.
func (p *Progress) Step(format string, args ...any) {
	step := fmt.Sprintf(format, args...)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet || step == p.step {
		return
	}
	before, _, _ := strings.Cut(p.step, ": ")
	what, _, isDetail := strings.Cut(step, ": ")
	goesOn := isDetail && what == before
	p.step = step
	if p.s.errTTY {
		if !goesOn {
			p.started = p.now()
		}
		p.draw()
		return
	}
	if goesOn && p.now().Sub(p.started) < everyLine {
		return
	}
	p.started = p.now()
	p.print("%s %s\n", p.now().Format("15:04:05"), step)
}

// Close ends the display and leaves the line clean.
func (p *Progress) Close() {
	p.mu.Lock()
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	p.mu.Unlock()
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn {
		p.print("\r\x1b[K")
		p.drawn = false
	}
	p.step = ""
}

func (p *Progress) animate() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
			p.mu.Lock()
			if p.step != "" {
				p.frame++
				p.draw()
			}
			p.mu.Unlock()
		}
	}
}

// Pause takes the display off the terminal, for a question; resume brings it back.
func (p *Progress) Pause() (resume func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn {
		p.print("\r\x1b[K")
		p.drawn = false
	}
	p.paused = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.paused = false
	}
}

// spinner is one frame of what shows that something goes on.
func spinner(frame int) string {
	frames := []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}
	return frames[frame%len(frames)]
}

// draw is called with mu held.
func (p *Progress) draw() {
	if p.paused {
		return
	}
	line := fmt.Sprintf("%s %s (%ds)", spinner(p.frame), p.step, int(p.now().Sub(p.started).Seconds()))
	if most := p.s.Width() - 1; len([]rune(line)) > most {
		line = string([]rune(line)[:most])
	}
	p.print("\r%s\x1b[K", line)
	p.drawn = true
}

// print is best effort: progress that cannot be shown is no reason to stop.
func (p *Progress) print(format string, args ...any) {
	_, _ = fmt.Fprintf(p.s.Err, format, args...)
}
