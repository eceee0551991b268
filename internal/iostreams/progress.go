package iostreams

import (
	"fmt"
	"strings"
	"time"
)

// Progress shows steps of something slow on stderr. On a terminal it redraws one line, at most ten times a second; elsewhere
// it prints one line for each change of step. Methods are safe for concurrent use; Close must be called.
type Progress struct {
	s     *IOStreams
	now   func() time.Time
	quiet bool

	step    string // guarded by the screen's mutex, as is started
	started time.Time
}

// NewProgress starts a progress display; a quiet one shows nothing.
func (s *IOStreams) NewProgress(quiet bool) *Progress {
	p := &Progress{s: s, now: time.Now, quiet: quiet}
	if s.errTTY && !quiet {
		s.screen.add(s.Err, p)
	}
	return p
}

// everyLine is how often a long step says how far it is where lines cannot be drawn over.
const everyLine = 10 * time.Second

// Step says what is being done now; the same step again changes nothing. What stands behind ": " is how far it is: a
// terminal shows each, a log file one line in ten seconds.
func (p *Progress) Step(format string, args ...any) {
	step := fmt.Sprintf(format, args...)
	if line := p.next(step); line != "" {
		_, _ = fmt.Fprintln(p.s.Err, line) // progress that cannot be shown is no reason to stop
	}
}

// next takes note of a step, and returns the line that a log gets of it.
func (p *Progress) next(step string) string {
	p.s.screen.mu.Lock()
	defer p.s.screen.mu.Unlock()
	if p.quiet || step == p.step {
		return ""
	}
	before, _, _ := strings.Cut(p.step, ": ")
	what, _, isDetail := strings.Cut(step, ": ")
	goesOn := isDetail && what == before
	p.step = step
	if goesOn && (p.s.errTTY || p.now().Sub(p.started) < everyLine) {
		return ""
	}
	p.started = p.now()
	if p.s.errTTY {
		return "" // the next frame shows it
	}
	return p.started.Format("15:04:05") + " " + step
}

// Close ends the display and leaves the terminal clean.
func (p *Progress) Close() {
	p.s.screen.remove(p)
	p.s.screen.mu.Lock()
	defer p.s.screen.mu.Unlock()
	p.step = ""
}

// Pause takes whatever moves off the terminal, for a question; resume brings it back.
func (p *Progress) Pause() (resume func()) { return p.s.screen.pause() }

func (p *Progress) lines(frame int) []string {
	if p.step == "" {
		return nil
	}
	line := fmt.Sprintf("%s %s (%ds)", spinner(frame), p.step, int(p.now().Sub(p.started).Seconds()))
	width, _ := p.s.errSize()
	return []string{cutTo(line, width)}
}
