package iostreams

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/charmbracelet/x/ansi"
)

// Board shows on stderr how far several hosts are at once. On a terminal there is a line for each that is under way, drawn
// anew at most ten times a second, and the last line of each host stays above them; elsewhere it prints one line for each
// change of step. What it is given must be free of control characters. Methods are safe for concurrent use; Close must be
// called.
type Board struct {
	s     *IOStreams
	now   func() time.Time
	quiet bool
	stop  chan struct{}
	wg    sync.WaitGroup

	mu     sync.Mutex
	rows   []*boardRow // those under way, in the order in which they began
	drawn  int         // lines on the terminal that are to be drawn over
	frame  int
	paused int
}

type boardRow struct {
	key                       string
	name, step, state, detail string
	began                     time.Time // of the host
	said                      time.Time // last line in a log
	saidDetail                bool      // and that it had a detail
}

// NewBoard starts a display; a quiet one shows nothing.
func (s *IOStreams) NewBoard(quiet bool) *Board {
	b := &Board{s: s, now: time.Now, quiet: quiet, stop: make(chan struct{})}
	if s.errTTY && !quiet {
		b.wg.Go(b.animate)
	}
	return b
}

// Step says what a host does now, and how that is; a detail is how far it is. Hosts are told apart by their key: several can
// have one name.
func (b *Board) Step(key, name, step, state, detail string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.quiet {
		return
	}
	now := b.now()
	r := b.row(key)
	if r == nil {
		r = &boardRow{key: key, name: name, began: now}
		b.rows = append(b.rows, r)
	}
	isSame := r.step == step && r.state == state
	r.step, r.state, r.detail = step, state, detail
	isSoon := r.saidDetail && now.Sub(r.said) < everyLine // the first detail says why a step takes long
	if b.s.errTTY || (isSame && (detail == "" || isSoon)) {
		return // the next frame shows it
	}
	r.said, r.saidDetail = now, detail != ""
	b.write(strings.TrimRight(fmt.Sprintf("%s %s %s %s %s", now.Format("15:04:05"), name, step, state, detail), " ") + "\n")
}

// End takes a host off the display; line is what is left of it.
func (b *Board) End(key, name string, isGood bool, line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.quiet {
		return
	}
	b.rows = slices.DeleteFunc(b.rows, func(r *boardRow) bool { return r.key == key })
	if !b.s.errTTY {
		b.write(fmt.Sprintf("%s %s %s\n", b.now().Format("15:04:05"), name, line))
		return
	}
	mark := "✓"
	if !isGood {
		mark = "✗"
	}
	b.write(b.erase() + b.cut(fmt.Sprintf("%s %s  %s", mark, name, line)) + "\n" + b.draw())
}

// Pause takes the display off the terminal, for a question; resume brings it back.
func (b *Board) Pause() (resume func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.write(b.erase())
	b.paused++
	return sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.paused--
	})
}

// Close ends the display. What was said of finished hosts stays.
func (b *Board) Close() {
	b.mu.Lock()
	select {
	case <-b.stop:
	default:
		close(b.stop)
	}
	b.mu.Unlock()
	b.wg.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.write(b.erase())
	b.rows = nil
}

func (b *Board) animate() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-tick.C:
			b.mu.Lock()
			b.frame++
			b.write(b.erase() + b.draw())
			b.mu.Unlock()
		}
	}
}

func (b *Board) row(key string) *boardRow {
	for _, r := range b.rows {
		if r.key == key {
			return r
		}
	}
	return nil
}

// erase is called with mu held. The cursor is then where the display began. Lines are cleared one by one: terminals keep what
// is cleared as a whole among what has scrolled away.
func (b *Board) erase() string {
	if b.drawn == 0 {
		return ""
	}
	up := fmt.Sprintf("\x1b[%dA\r", b.drawn)
	out := up + strings.Repeat("\x1b[2K\n", b.drawn) + up
	b.drawn = 0
	return out
}

// draw is called with mu held, and nothing drawn. There is never more than the terminal shows: what has scrolled away cannot
// be drawn over.
func (b *Board) draw() string {
	if b.paused > 0 || len(b.rows) == 0 {
		return ""
	}
	_, height := b.s.errSize()
	most := max(1, height-2)
	width := 0
	for _, r := range b.rows {
		width = max(width, ansi.StringWidth(r.name))
	}
	var out strings.Builder
	for i, r := range b.rows {
		if b.drawn == most-1 && len(b.rows) > most {
			fmt.Fprintf(&out, "  and %d more\n", len(b.rows)-i)
			b.drawn++
			break
		}
		pad := strings.Repeat(" ", width-ansi.StringWidth(r.name))
		line := fmt.Sprintf("%s %s%s  %s (%ds)", spinner(b.frame+i), r.name, pad, r.step, int(b.now().Sub(r.began).Seconds()))
		if r.detail != "" {
			line += " " + r.detail
		}
		out.WriteString(b.cut(line) + "\n")
		b.drawn++
	}
	return out.String()
}

// cut keeps a line from going on in the next one.
func (b *Board) cut(line string) string {
	width, _ := b.s.errSize()
	return ansi.Truncate(line, width-1, "…")
}

// write is best effort: progress that cannot be shown is no reason to stop.
func (b *Board) write(text string) {
	if text != "" {
		_, _ = io.WriteString(b.s.Err, text)
	}
}
