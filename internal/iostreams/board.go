package iostreams

import (
	"fmt"
	"io"
	"slices"
	"strings"
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

	rows  []*boardRow // those under way, in the order in which they began; guarded by the screen's mutex, as is width
	width int         // of the widest name so far, so that lines stand below each other
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
	b := &Board{s: s, now: time.Now, quiet: quiet}
	if s.errTTY && !quiet {
		s.screen.add(s.Err, b)
	}
	return b
}

// Names says whose lines there will be, so that they stand below each other from the first on.
func (b *Board) Names(names ...string) {
	b.s.screen.mu.Lock()
	defer b.s.screen.mu.Unlock()
	for _, name := range names {
		b.width = max(b.width, ansi.StringWidth(name))
	}
}

// Step says what a host does now, and how that is; a detail is how far it is. Hosts are told apart by their key: several can
// have one name.
func (b *Board) Step(key, name, step, state, detail string) {
	b.write(b.next(key, name, step, state, detail))
}

// next takes note of a step, and returns the line that a log gets of it.
func (b *Board) next(key, name, step, state, detail string) string {
	b.s.screen.mu.Lock()
	defer b.s.screen.mu.Unlock()
	if b.quiet {
		return ""
	}
	now := b.now()
	r := b.row(key)
	if r == nil {
		r = &boardRow{key: key, name: name, began: now}
		b.rows = append(b.rows, r)
		b.width = max(b.width, ansi.StringWidth(name))
	}
	isSame := r.step == step && r.state == state
	r.step, r.state, r.detail = step, state, detail
	isSoon := r.saidDetail && now.Sub(r.said) < everyLine // the first detail says why a step takes long
	if b.s.errTTY || (isSame && (detail == "" || isSoon)) {
		return "" // the next frame shows it
	}
	r.said, r.saidDetail = now, detail != ""
	return strings.TrimRight(fmt.Sprintf("%s %s %s %s %s", now.Format("15:04:05"), name, step, state, detail), " ") + "\n"
}

// End takes a host off the display; line is what is left of it.
func (b *Board) End(key, name string, isGood bool, line string) {
	if b.quiet {
		return
	}
	b.s.screen.mu.Lock()
	b.rows = slices.DeleteFunc(b.rows, func(r *boardRow) bool { return r.key == key })
	name = b.padded(name)
	b.s.screen.mu.Unlock()
	if !b.s.errTTY {
		b.write(fmt.Sprintf("%s %s %s\n", b.now().Format("15:04:05"), strings.TrimRight(name, " "), line))
		return
	}
	mark := "✓"
	if !isGood {
		mark = "✗"
	}
	b.write(b.cut(fmt.Sprintf("%s %s  %s", mark, name, line)) + "\n")
}

// Close ends the display. What was said of finished hosts stays.
func (b *Board) Close() {
	b.s.screen.remove(b)
	b.s.screen.mu.Lock()
	defer b.s.screen.mu.Unlock()
	b.rows = nil
}

// Pause takes whatever moves off the terminal, for a question; resume brings it back.
func (b *Board) Pause() (resume func()) { return b.s.screen.pause() }

func (b *Board) row(key string) *boardRow {
	for _, r := range b.rows {
		if r.key == key {
			return r
		}
	}
	return nil
}

// padded is a name with spaces to where the next column begins.
func (b *Board) padded(name string) string {
	return name + strings.Repeat(" ", max(0, b.width-ansi.StringWidth(name)))
}

// lines are never more than the terminal shows: what has scrolled away cannot be drawn over.
func (b *Board) lines(frame int) []string {
	_, height := b.s.errSize()
	most := max(1, height-3) // one is for steps of something else
	var out []string
	for i, r := range b.rows {
		if i == most-1 && len(b.rows) > most {
			return append(out, fmt.Sprintf("  and %d more", len(b.rows)-i))
		}
		line := fmt.Sprintf("%s %s  %s (%ds)", spinner(frame+i), b.padded(r.name), r.step, int(b.now().Sub(r.began).Seconds()))
		if r.detail != "" {
			line += " " + r.detail
		}
		out = append(out, b.cut(line))
	}
	return out
}

func (b *Board) cut(line string) string {
	width, _ := b.s.errSize()
	return cutTo(line, width)
}

// write is best effort: progress that cannot be shown is no reason to stop.
func (b *Board) write(text string) {
	if text != "" {
		_, _ = io.WriteString(b.s.Err, text)
	}
}
