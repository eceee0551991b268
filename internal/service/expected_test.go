package service

import (
	"os"
	"testing"
)

// Services are expected while they are to run, and while a command starts or stops them.
func TestIsExpected(t *testing.T) {
	t.Parallel()
	o := Options{Home: t.TempDir()}
	is := func(what string, want bool) {
		t.Helper()
		if got, err := IsExpected(o); got != want || err != nil {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	is("an empty home", false)
	release, err := Acquire(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	is("a command is at it", true)
	release()
	is("it has ended", false)
	if err := writeDesired(o); err != nil {
		t.Fatal(err)
	}
	is("they are to run", true)
	if err := os.Remove(o.run("desired")); err != nil {
		t.Fatal(err)
	}
	is("they are stopped", false)
}
