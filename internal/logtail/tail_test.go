package logtail_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mlxctl/mlxctl/internal/logtail"
)

// log is a log in a folder of its own.
type log struct {
	t    *testing.T
	dir  string
	path string
}

func newLog(t *testing.T) *log {
	t.Helper()
	dir := t.TempDir()
	return &log{t, dir, filepath.Join(dir, "x.log")}
}

func (l *log) add(text string) {
	l.t.Helper()
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		l.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		l.t.Fatal(err)
	}
}

func (l *log) rotate() {
	l.t.Helper()
	if err := os.Rename(l.path, l.path+logtail.OlderEnd); err != nil {
		l.t.Fatal(err)
	}
}

// follow reads the log from its last n lines on.
func (l *log) follow(n int) *reader {
	l.t.Helper()
	r := &reader{t: l.t, lines: make(chan string), taken: make(chan struct{}), done: make(chan error, 1)}
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		tail := logtail.New(logtail.Dir(l.dir), "x.log", func(text string) error {
			select {
			case r.lines <- text:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			<-r.taken
			return nil
		})
		defer tail.Close()
		err := tail.Last(n, true)
		if err == nil {
			err = logtail.Follow(ctx, tail)
		}
		r.done <- err
	}()
	l.t.Cleanup(func() {
		over := errors.New("over")
		cancel(over)
		if err := <-r.done; !errors.Is(err, over) {
			l.t.Errorf("following ended with %v", err)
		}
	})
	return r
}

// reader gets one line at a time: between two of them the one that reads the log stands still.
type reader struct {
	t     *testing.T
	lines chan string
	taken chan struct{}
	done  chan error
}

// next expects lines; do is done while the last one is being taken.
func (r *reader) next(do func(), want ...string) {
	r.t.Helper()
	for i, w := range want {
		select {
		case got := <-r.lines:
			if got != w {
				r.t.Errorf("got %.100q, want %.100q", got, w)
			}
		case err := <-r.done:
			r.done <- err
			r.t.Fatalf("ended with %v, want %.100q", err, w)
		}
		if i == len(want)-1 && do != nil {
			do()
		}
		r.taken <- struct{}{}
	}
}

func all(t *testing.T, folder logtail.Folder, n int) ([]string, error) {
	t.Helper()
	got := []string{}
	tail := logtail.New(folder, "x.log", func(text string) error { got = append(got, text); return nil })
	defer tail.Close()
	err := tail.Last(n, false)
	return got, err
}

func TestLast(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.add("1\n2\nend")
	l.rotate()
	l.add("3\n\n5 \x1b\xff\nhalf")
	lines := []string{"1", "2", "end", "3", "", "5 \x1b\uFFFD", "half"}
	for _, n := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 1 << 62} {
		want := lines
		if n > 0 {
			want = lines[max(0, len(lines)-n):]
		}
		if got, err := all(t, logtail.Dir(l.dir), n); err != nil || !slices.Equal(got, want) {
			t.Errorf("last %d: %q, %v, want %q", n, got, err, want)
		}
	}
}

// A line that is not whole is one of the last, and is given when it is.
func TestLastBeforeFollow(t *testing.T) {
	t.Parallel()
	for n, want := range map[int][]string{0: {"1", "2", "3"}, 1: nil, 2: {"3"}, 4: {"1", "2", "3"}, 5: {"1", "2", "3"}} {
		l := newLog(t)
		l.add("1\n2\n3\nha")
		r := l.follow(n)
		r.next(nil, want...)
		l.add("lf\n")
		r.next(nil, "half")
	}
	empty := newLog(t)
	empty.add("begin")
	r := empty.follow(0)
	empty.add(" end\n")
	r.next(nil, "begin end")
}

func TestNoLog(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	if got, err := all(t, logtail.Dir(l.dir), 0); !errors.Is(err, fs.ErrNotExist) || len(got) > 0 {
		t.Errorf("%q, %v", got, err)
	}
	tail := logtail.New(logtail.Dir(l.dir), "x.log", func(text string) error { return errors.New(text) })
	defer tail.Close()
	if err := tail.Last(0, true); err != nil {
		t.Errorf("a log that is waited for: %v", err)
	}
	l.add("here\n")
	if err := logtail.Follow(t.Context(), tail); err == nil || err.Error() != "here" {
		t.Error(err)
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.add("1\n")
	r := l.follow(0)
	r.next(func() { l.add("2\nha") }, "1")
	r.next(func() { l.add("lf\n3\n") }, "2")
	r.next(nil, "half", "3")
}

// What was written before a rotation is read after it, also where a line has no end, and where nobody looked until the log
// was rotated twice.
func TestFollowRotation(t *testing.T) {
	t.Parallel()
	l, clock := newLog(t), newLog(t)
	l.add("1\n")
	steps := []func(){
		func() {
			l.add("2\n")
			l.rotate()
			l.add("3\n")
		},
		func() {
			l.add("4\n")
			l.rotate()
			l.add("5\nend")
			l.rotate()
			l.add("6\n")
		},
		func() { l.rotate() },
		func() { l.add("7\n") },
		func() {},
	}
	var got []string
	over := errors.New("over")
	log := logtail.New(logtail.Dir(l.dir), "x.log", func(text string) error { got = append(got, text); return nil })
	defer log.Close()
	// A step is done between two looks at the log. Of the clock each look gives one line: the next one is in another file.
	ticks := logtail.New(logtail.Dir(clock.dir), "x.log", func(string) error {
		if len(steps) == 0 {
			return over
		}
		steps[0]()
		steps = steps[1:]
		clock.rotate()
		clock.add("tick\n")
		return nil
	})
	defer ticks.Close()
	if err := log.Last(0, true); err != nil {
		t.Fatal(err)
	}
	clock.add("tick\n")
	if err := logtail.Follow(t.Context(), log, ticks); !errors.Is(err, over) {
		t.Error(err)
	}
	if want := []string{"1", "2", "3", "4", "5", "end", "6", "7"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFollowTruncation(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.add("a long line\nand a part")
	r := l.follow(0)
	r.next(nil, "a long line")
	// Only the part's end says that it was read; then the file is emptied.
	l.add(" of it\n")
	r.next(func() {
		if err := os.Truncate(l.path, 0); err != nil {
			t.Fatal(err)
		}
		l.add("new\n")
	}, "and a part of it")
	r.next(nil, "new")
}

// A line is given in pieces that are not too long and break no character, and keeps all its text.
func TestLongLines(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		strings.Repeat("x", logtail.LineMost-1), strings.Repeat("x", logtail.LineMost), strings.Repeat("x", 3*logtail.LineMost+5),
		"x" + strings.Repeat("ä", logtail.LineMost), "x" + strings.Repeat("\U0001F600", logtail.LineMost),
	} {
		l := newLog(t)
		l.add("a\n" + line + "\nb\n")
		got, err := all(t, logtail.Dir(l.dir), 0)
		if err != nil || len(got) < 3 || got[0] != "a" || got[len(got)-1] != "b" {
			t.Fatalf("%d lines, %v", len(got), err)
		}
		pieces := got[1 : len(got)-1]
		if most := (len(line)+logtail.LineMost-1)/logtail.LineMost + 1; len(pieces) > most {
			t.Errorf("%d pieces", len(pieces))
		}
		if strings.Join(pieces, "") != line {
			t.Error("another text")
		}
		for _, p := range pieces {
			if len(p) > logtail.LineMost || !utf8.ValidString(p) {
				t.Errorf("a piece of %d bytes: %.20q", len(p), p)
			}
		}
	}
	l := newLog(t)
	bad := strings.Repeat("\x80", 2*logtail.LineMost)
	l.add(bad)
	if got, err := all(t, logtail.Dir(l.dir), 0); err != nil || len(got) != 2 {
		t.Errorf("no text: %d pieces, %v", len(got), err)
	}
}

// An error of who takes the lines ends the reading with it.
func TestLineFails(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.add("1\n2\n")
	full := errors.New("full")
	for _, n := range []int{0, 1} {
		calls := 0
		tail := logtail.New(logtail.Dir(l.dir), "x.log", func(string) error { calls++; return full })
		if err := tail.Last(n, false); !errors.Is(err, full) || calls != 1 {
			t.Errorf("%v after %d lines", err, calls)
		}
		tail.Close()
	}
	tail := logtail.New(logtail.Dir(l.dir), "x.log", func(string) error { return full })
	defer tail.Close()
	if err := logtail.Follow(t.Context(), tail); !errors.Is(err, full) {
		t.Error(err)
	}
}

// A log in a root does not lead out of it.
func TestRoot(t *testing.T) {
	t.Parallel()
	outside, l := newLog(t), newLog(t)
	outside.add("secret\n")
	if err := os.Symlink(outside.path, l.path); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if got, err := all(t, root, 0); err == nil || len(got) > 0 {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := all(t, logtail.Dir(l.dir), 0); err != nil || !slices.Equal(got, []string{"secret"}) {
		t.Errorf("%q, %v", got, err)
	}
}
