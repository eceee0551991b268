package mlxbridge

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestStreamMergesWhatIsNotTaken(t *testing.T) {
	t.Parallel()
	s := newStream()
	s.setProgress(cluster.Progress{Phase: cluster.PhasePrefill, Done: 1, Total: 2})
	s.add(&stepRow{Text: "a", Tokens: []int{1}})
	s.add(&stepRow{Text: "b", Tokens: []int{2, 3}})
	s.setProgress(cluster.Progress{Phase: cluster.PhasePrefill, Done: 2, Total: 2}) // too late
	chunk, some, ended, err := s.take()
	if chunk.Text != "ab" || len(chunk.Tokens) != 3 || chunk.Progress != nil || !some || ended || err != nil {
		t.Errorf("%+v, %v, %v, %v", chunk, some, ended, err)
	}
	s.add(&stepRow{Text: "c", Tokens: []int{4}})
	s.complete(cluster.FinishStop, "", &cluster.Usage{CompletionTokens: 4})
	s.add(&stepRow{Text: "after the end"})
	s.fail(cluster.Errorf(cluster.CodeInternal, "after the end"))
	chunk, some, ended, err = s.take()
	if chunk.Text != "c" || chunk.Finish != cluster.FinishStop || chunk.Usage == nil || !some || !ended || err != nil {
		t.Errorf("%+v, %v, %v, %v", chunk, some, ended, err)
	}
}

func TestStreamMergesOnlyWhatKeepsItsOrder(t *testing.T) {
	t.Parallel()
	call := func(d cluster.ToolCallDelta) stepExtra { return stepExtra{Calls: []cluster.ToolCallDelta{d}} }
	s := newStream()
	for i, r := range []stepRow{
		{Extra: stepExtra{Reasoning: "I "}},
		{Extra: stepExtra{Reasoning: "think"}},
		{Text: "So"},
		{Text: " it"},
		{Extra: call(cluster.ToolCallDelta{ID: "c", Name: "f", Arguments: "{"})},
		{Extra: call(cluster.ToolCallDelta{Arguments: "}"})},
		{Extra: call(cluster.ToolCallDelta{Index: 1, ID: "d", Name: "g"})},
		{Text: "late"},
		{Extra: stepExtra{Reasoning: "again"}},
	} {
		r.Tokens = []int{i}
		s.add(&r)
	}
	s.complete(cluster.FinishToolCalls, "", &cluster.Usage{})
	want := []cluster.Chunk{
		{
			Reasoning: "I think", Text: "So it", Tokens: []int{0, 1, 2, 3, 4, 5, 6},
			ToolCalls: []cluster.ToolCallDelta{{ID: "c", Name: "f", Arguments: "{}"}, {Index: 1, ID: "d", Name: "g"}},
		},
		{Text: "late", Tokens: []int{7}},
		{Reasoning: "again", Tokens: []int{8}, Finish: cluster.FinishToolCalls, Usage: &cluster.Usage{}},
	}
	for i := range want {
		<-s.wake // each that is there is announced
		chunk, some, ended, err := s.take()
		if !reflect.DeepEqual(chunk, want[i]) || !some || ended != (i == 2) || err != nil {
			t.Errorf("%+v, %v, %v, %v; want %+v", chunk, some, ended, err, want[i])
		}
	}
}

func TestStreamBoundsWhatIsNoText(t *testing.T) {
	t.Parallel()
	half := maxPendingBytes / 2
	for name, extra := range map[string]stepExtra{
		"reasoning": {Reasoning: strings.Repeat("x", half)},
		"arguments": {Calls: []cluster.ToolCallDelta{{Arguments: strings.Repeat("x", half-callBytes)}}},
	} {
		s := newStream()
		one, two := s.add(&stepRow{Extra: extra}), s.add(&stepRow{Extra: extra})
		if !one || !two || s.add(&stepRow{Text: "x"}) {
			t.Errorf("%s is not counted", name)
		}
	}
}

func TestStreamHandsOverWhatCameBeforeAFailure(t *testing.T) {
	t.Parallel()
	s := newStream()
	s.add(&stepRow{Text: "a", Tokens: []int{1}})
	s.fail(cluster.Errorf(cluster.CodeWorkerCrashed, "gone"))
	chunk, some, ended, err := s.take()
	if chunk.Text != "a" || chunk.Finish != "" || !some || !ended || cluster.CodeOf(err) != cluster.CodeWorkerCrashed {
		t.Errorf("%+v, %v, %v, %v", chunk, some, ended, err)
	}
}

func TestStreamIsBounded(t *testing.T) {
	t.Parallel()
	s := newStream()
	row := &stepRow{Text: strings.Repeat("x", 8<<20)}
	for range maxPendingBytes >> 23 {
		if !s.add(row) {
			t.Fatal("it is full too early")
		}
	}
	if s.add(row) {
		t.Error("it takes more than it may")
	}
	_, _, _, _ = s.take()
	if !s.add(row) {
		t.Error("it was taken from, and is full")
	}
}

func TestLogFileKeepsTheEnd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log", "worker.log")
	l := openLogFile(path, 100)
	defer l.close()
	for range 10 {
		if _, err := l.Write([]byte(strings.Repeat("x", 29) + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = l.Write([]byte("the last line \xff\n\n")) // it always succeeds
	if got := l.lastLine(); got != "the last line ?" {
		t.Errorf("last line %q", got)
	}
	for _, each := range []string{path, path + ".1"} {
		if info, err := os.Stat(each); err != nil || info.Size() > 100 {
			t.Errorf("%s: %v, %v", each, info, err)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 2 {
		t.Errorf("%v, %v", left, err)
	}
}

func TestLogFileWithoutAFile(t *testing.T) {
	t.Parallel()
	l := openLogFile("/dev/null/worker.log", 100)
	defer l.close()
	_, _ = l.Write([]byte("said\n")) // it always succeeds
	if got := l.hint(); !strings.Contains(got, "said") {
		t.Errorf("hint %q", got)
	}
}

func TestSourceIsUnpackedAgainWhenItWasChanged(t *testing.T) {
	t.Parallel()
	source := fstest.MapFS{"pkg/a.py": {Data: []byte("a")}, "pkg/b.py": {Data: []byte("b")}}
	cache := t.TempDir()
	dir, err := unpackSource(source, cache)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "pkg", "b.py")
	if err := os.WriteFile(path, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := unpackSource(source, cache)
	if err != nil || again != dir {
		t.Errorf("%s and then %s, %v", dir, again, err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "b" {
		t.Errorf("%q, %v", got, err)
	}
	source["pkg/c.py"] = &fstest.MapFile{Data: []byte("c")}
	if other, err := unpackSource(source, cache); err != nil || other == dir {
		t.Errorf("another source is in %s, %v", other, err)
	}
	if left, err := os.ReadDir(filepath.Join(cache, "worker")); err != nil || len(left) != 2 {
		t.Errorf("%v, %v", left, err)
	}
}
