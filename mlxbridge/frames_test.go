package mlxbridge

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func frameOf(body string) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// A curve that makes no sense is none: what would be worked out from it is worse than nothing.
func TestCurveOfAWorker(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]*cluster.Curve{
		`{"type":"stats","curve":{"decode":[[1,20],[8,40]],"prefill":[[64,900]],"measured":true}}`: {
			Decode: [][2]float64{{1, 20}, {8, 40}}, Prefill: [][2]float64{{64, 900}}, Measured: true,
		},
		`{"type":"stats","curve":{"decode":[[8,20],[1,40]],"prefill":[[64,900]],"measured":true}}`: nil,
		`{"type":"stats","curve":{"decode":[[1,-1]],"prefill":[],"measured":false}}`:               nil,
		`{"type":"stats","curve":{"decode":[],"prefill":[],"measured":false}}`:                     nil,
		`{"type":"stats"}`: nil,
	} {
		f, err := newFrameReader(bytes.NewReader(frameOf(body))).next()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, f.stats(time.Now()).Curve); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
	}
}

func TestFramesAreReadInPieces(t *testing.T) {
	t.Parallel()
	stream := append(frameOf(`{"type":"accepted","id":"a","prompt_tokens":7,"cached_tokens":3}`),
		frameOf(`{"type":"step","rows":[["a","é",[1,2]],["b","",[],[{"t":5,"s":"x","b":[120],"l":-0.5,"top":[]}]]]}`)...)
	r := newFrameReader(iotest.OneByteReader(bytes.NewReader(stream)))
	first, err := r.next()
	if err != nil || first.Type != "accepted" || first.ID != "a" || first.PromptTokens != 7 || first.CachedTokens != 3 {
		t.Errorf("%+v, %v", first, err)
	}
	second, err := r.next()
	if err != nil || len(second.Rows) != 2 {
		t.Fatalf("%+v, %v", second, err)
	}
	if a := second.Rows[0]; a.ID != "a" || a.Text != "é" || len(a.Tokens) != 2 || a.Tokens[1] != 2 {
		t.Errorf("%+v", a)
	}
	if b := second.Rows[1].Logprobs; len(b) != 1 || b[0].value().Token != 5 || string(b[0].value().Bytes) != "x" {
		t.Errorf("%+v", b)
	}
	if _, err := r.next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestFramesThatAreNone(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{
		"a cut head":         {1, 0},
		"a cut body":         append(binary.LittleEndian.AppendUint32(nil, 100), "{"...),
		"no JSON":            frameOf("nonsense"),
		"no object":          frameOf("[]"),
		"no type":            frameOf("{}"),
		"too long":           binary.LittleEndian.AppendUint32(nil, maxFrameBytes+1),
		"a row of one field": frameOf(`{"type":"step","rows":[["a"]]}`),
		"a row of five":      frameOf(`{"type":"step","rows":[["a","",[],[],1]]}`),
		"a row of numbers":   frameOf(`{"type":"step","rows":[[1,2,3]]}`),
	} {
		if f, err := newFrameReader(bytes.NewReader(data)).next(); err == nil || errors.Is(err, io.EOF) && name != "a cut head" {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
}

func TestRequestIsOneFrame(t *testing.T) {
	t.Parallel()
	prompt := "line\nand é"
	data, err := encodeFrame(newGenFrame("r1", &cluster.Request{Prompt: &prompt, LogitBias: map[int]float64{7: -1}}))
	if err != nil {
		t.Fatal(err)
	}
	want := frameOf(`{"type":"gen","id":"r1","prompt":"line\nand é","logit_bias":{"7":-1}}`)
	if !bytes.Equal(data, want) {
		t.Errorf("got %q, want %q", data, want)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(frameOf(`{"type":"step","rows":[["a","text",[1]]]}`))
	f.Add(frameOf(`{"type":"done","id":"a","reason":"stop","usage":{"prompt_tokens":1},"timing":{"queue_ms":0.5}}`))
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newFrameReader(bytes.NewReader(data))
		for range len(data) + 1 {
			frame, err := r.next()
			if err != nil {
				return
			}
			if frame.Type == "" {
				t.Error("a frame has no type")
			}
		}
		t.Error("there is no end")
	})
}
