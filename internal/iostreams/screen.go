package iostreams

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/charmbracelet/x/ansi"
)

// screen is the terminal at which a command talks: lines that move at its end, and whatever else is written, which stands above
// them. What is written to Out or Err takes the lines that move off first; the next frame brings them back. Its mutex guards
// the state of those who draw as well.
type screen struct {
	mu     sync.Mutex
	err    io.Writer // the terminal itself
	live   []painter // in the order in which they began
	drawn  int       // lines that are to be drawn over
	frame  int
	paused int
	isOpen bool    // what was written last goes on in its line
	ticker *ticker // nil while nobody draws
}

// ticker draws the frames until stop is closed; it closes done then.
type ticker struct{ stop, done chan struct{} }

// painter has lines that move. It is called with the mutex of its screen held.
type painter interface {
	// lines are none wider than the terminal, and together fewer than it has.
	lines(frame int) []string
}

// everyFrame is how often lines that move are drawn anew.
const everyFrame = 100 * time.Millisecond

// add has a painter draw until remove. The lines are shown by the next frame.
func (c *screen) add(err io.Writer, p painter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch g := err.(type) {
	case *guarded:
		err = g.w
	case *guardedFile:
		err = g.w
	}
	c.err = err
	c.live = append(c.live, p)
	if c.ticker == nil {
		c.ticker = &ticker{make(chan struct{}), make(chan struct{})}
		go c.animate(c.ticker) // remove waits for it
	}
}

// remove takes the lines of a painter off the terminal.
func (c *screen) remove(p painter) {
	c.mu.Lock()
	c.erase()
	c.live = slices.DeleteFunc(c.live, func(x painter) bool { return x == p })
	last := c.ticker
	if len(c.live) > 0 || last == nil {
		c.mu.Unlock()
		return
	}
	c.ticker = nil
	c.mu.Unlock()
	close(last.stop)
	<-last.done
}

// pause takes everything that moves off the terminal, for a question; resume brings it back.
func (c *screen) pause() (resume func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.erase()
	c.paused++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.paused--
	})
}

// endLine says that the cursor is at the beginning of a line though nothing was written.
func (c *screen) endLine() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isOpen = false
}

func (c *screen) animate(t *ticker) {
	defer close(t.done)
	tick := time.NewTicker(everyFrame)
	defer tick.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-tick.C:
			c.mu.Lock()
			c.frame++
			c.draw()
			c.mu.Unlock()
		}
	}
}

// erase is called with mu held. The cursor is then where the lines began. They are cleared one by one: terminals keep what is
// cleared as a whole among what has scrolled away.
func (c *screen) erase() {
	if c.drawn == 0 {
		return
	}
	up := fmt.Sprintf("\x1b[%dA\r", c.drawn)
	c.write(up + strings.Repeat("\x1b[2K\n", c.drawn) + up)
	c.drawn = 0
}

// draw is called with mu held.
func (c *screen) draw() {
	c.erase()
	if c.paused > 0 || c.isOpen {
		return
	}
	var all []string
	for _, p := range c.live {
		all = append(all, p.lines(c.frame)...)
	}
	if len(all) > 0 {
		c.write(strings.Join(all, "\n") + "\n")
	}
	c.drawn = len(all)
}

// write is best effort: progress that cannot be shown is no reason to stop.
func (c *screen) write(text string) { _, _ = io.WriteString(c.err, text) }

// guarded is a stream that takes what moves off the terminal before anything is written.
type guarded struct {
	c     *screen
	w     io.Writer
	isTTY func() bool
}

func (g *guarded) Write(p []byte) (int, error) {
	g.c.mu.Lock()
	defer g.c.mu.Unlock()
	g.c.erase()
	if len(p) > 0 && g.isTTY() {
		g.c.isOpen = p[len(p)-1] != '\n'
	}
	return g.w.Write(p)
}

// guardedFile is a guarded terminal that can still be asked what it is.
type guardedFile struct {
	guarded
	f *os.File
}

func (g *guardedFile) Fd() uintptr                { return g.f.Fd() }
func (g *guardedFile) Read(p []byte) (int, error) { return g.f.Read(p) }
func (g *guardedFile) Close() error               { return g.f.Close() }

// cutTo keeps a line from going on in the next one of a terminal.
func cutTo(line string, width int) string { return ansi.Truncate(line, width-1, "…") }

// spinner is one frame of what shows that something goes on.
func spinner(frame int) string {
	frames := []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}
	return frames[frame%len(frames)]
}
