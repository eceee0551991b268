package service

import (
	"log/slog"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A child is asked to finish, then to begin nothing new for it, and in the end its keeper is gone.
func TestLifelineSaysWhatIsAsked(t *testing.T) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(theirs.Fd())) // for Watch to keep
	if err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	ctx, finish, err := Watch(t.Context(), Options{Home: t.TempDir(), Log: slog.New(slog.DiscardHandler)}, fd)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		if _, err := ours.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, open := <-finish; open != want {
			t.Errorf("open %v, want %v", open, want)
		}
	}
	if ctx.Err() != nil {
		t.Error("the keeper is gone too soon")
	}
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
}
