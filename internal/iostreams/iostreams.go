// Package iostreams holds the three streams of a command and what it may assume of them: whether a person reads
// them, how wide they are, whether colour is welcome. Results go to Out, talk goes to Err.
package iostreams

import (
	"bytes"
	"io"
	"os"

	"golang.org/x/term"
)

// IOStreams are the streams of one command. Make one with System or Test.
type IOStreams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer

	inTTY, outTTY, errTTY bool
	inReadable            bool
	color                 string // auto, always, never
	env                   func(string) (string, bool)
	width                 func() int
	errSize               func() (width, height int) // of the terminal at Err
	screen                *screen
}

// System returns the process's own streams.
func System() *IOStreams {
	c := &screen{}
	s := &IOStreams{
		In:         os.Stdin,
		screen:     c,
		inTTY:      isTTY(os.Stdin),
		outTTY:     isTTY(os.Stdout),
		errTTY:     isTTY(os.Stderr),
		inReadable: isReadable(os.Stdin),
		color:      "auto",
		env:        os.LookupEnv,
		width:      func() int { return widthOf(os.Stdout) },
		errSize:    func() (int, int) { return sizeOf(os.Stderr) },
	}
	s.Out = &guardedFile{guarded{c, os.Stdout, s.OutTTY}, os.Stdout}
	s.Err = &guardedFile{guarded{c, os.Stderr, s.ErrTTY}, os.Stderr}
	return s
}

// Test returns streams on buffers that are no terminals. Stdin counts as a pipe.
func Test() (s *IOStreams, in, out, errOut *bytes.Buffer) {
	in, out, errOut = &bytes.Buffer{}, &bytes.Buffer{}, &bytes.Buffer{}
	c := &screen{}
	s = &IOStreams{
		In:         in,
		screen:     c,
		inReadable: true,
		color:      "auto",
		env:        func(string) (string, bool) { return "", false },
		width:      func() int { return 80 },
		errSize:    func() (int, int) { return 80, 24 },
	}
	s.Out, s.Err = &guarded{c, out, s.OutTTY}, &guarded{c, errOut, s.ErrTTY}
	return s, in, out, errOut
}

// SetTTY overrides what is known of the streams; tests of terminal behaviour use it.
func (s *IOStreams) SetTTY(in, out, errOut bool) {
	s.inTTY, s.outTTY, s.errTTY = in, out, errOut
	s.inReadable = !in
}

// InTTY says that a person types on stdin.
func (s *IOStreams) InTTY() bool { return s.inTTY }

// OutTTY says that a person reads stdout.
func (s *IOStreams) OutTTY() bool { return s.outTTY }

// ErrTTY says that a person reads stderr.
func (s *IOStreams) ErrTTY() bool { return s.errTTY }

// InReadable says that stdin is a pipe or a regular file, so that reading it to the end is what the caller meant.
func (s *IOStreams) InReadable() bool { return s.inReadable }

// Width is the terminal's width in cells, 80 where there is none.
func (s *IOStreams) Width() int { return s.width() }

// SetColor sets when to colour: auto, always or never.
func (s *IOStreams) SetColor(when string) { s.color = when }

// OutColor says whether colour on stdout is welcome.
func (s *IOStreams) OutColor() bool { return s.colorful(s.outTTY) }

// ErrColor says whether colour on stderr is welcome.
func (s *IOStreams) ErrColor() bool { return s.colorful(s.errTTY) }

func (s *IOStreams) colorful(tty bool) bool {
	switch s.color {
	case "always":
		return true
	case "never":
		return false
	}
	if v, ok := s.env("NO_COLOR"); ok && v != "" {
		return false
	}
	if v, _ := s.env("TERM"); v == "dumb" {
		return false
	}
	return tty
}

func isTTY(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

func isReadable(f *os.File) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	return info.Mode()&os.ModeNamedPipe != 0 || info.Mode().IsRegular()
}

func widthOf(f *os.File) int {
	w, _ := sizeOf(f)
	return w
}

// sizeOf is a terminal's size in cells; 80 by 24 where there is none.
func sizeOf(f *os.File) (width, height int) {
	w, h, err := term.GetSize(int(f.Fd()))
	if err != nil || w <= 0 || h <= 0 {
		return 80, 24
	}
	return w, h
}
