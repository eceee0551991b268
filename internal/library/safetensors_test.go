package library

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"
)

func withHeader(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

func TestHeader(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header string
		data   int
		ok     bool
	}{
		"empty":                {`{}`, 0, true},
		"metadata alone":       {`{"__metadata__": {"a": "b"}}`, 0, true},
		"padded":               {`{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}   `, 8, true},
		"a scalar":             {`{"a": {"dtype": "F16", "shape": [], "data_offsets": [0, 2]}}`, 2, true},
		"nothing in it":        {`{"a": {"dtype": "F16", "shape": [0, 3], "data_offsets": [0, 0]}}`, 0, true},
		"packed in half bytes": {`{"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}`, 2, true},
		"a type of the future": {`{"a": {"dtype": "Q3", "shape": [3], "data_offsets": [0, 2]}}`, 2, true},
		"too short for shape":  {`{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}`, 8, false},
		"too little data":      {`{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}`, 7, false},
		"backwards":            {`{"a": {"dtype": "Q3", "shape": [2], "data_offsets": [8, 0]}}`, 8, false},
		"negative":             {`{"a": {"dtype": "Q3", "shape": [2], "data_offsets": [-8, 0]}}`, 8, false},
		"one offset":           {`{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8]}}`, 8, false},
		"negative shape":       {`{"a": {"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]}}`, 8, false},
		"shape overflows":      {`{"a": {"dtype": "U8", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}}`, 8, false},
		"fractions":            {`{"a": {"dtype": "U8", "shape": [0.5], "data_offsets": [0, 0]}}`, 8, false},
		"far beyond":           {`{"a": {"dtype": "Q3", "shape": [1], "data_offsets": [0, 9223372036854775807]}}`, 8, false},
		"one over another":     {`{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]}}`, 6, false},
		"null":                 {`null`, 0, false},
		"no object":            {`[1]`, 0, false},
		"tensor is no object":  {`{"a": 1}`, 0, false},
		"not JSON":             {`{"a`, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := withHeader(c.header, c.data)
			_, err := readHeader(bytes.NewReader(b), int64(len(b)))
			if (err == nil) != c.ok {
				t.Errorf("got %v, want ok %t", err, c.ok)
			}
		})
	}
}

// A length that no header has is refused before memory is taken for it.
func TestHeaderLengthIsBounded(t *testing.T) {
	t.Parallel()
	for _, length := range []uint64{0, 1, headerMost + 1, 1 << 40, 1 << 63, 1<<64 - 1} {
		b := binary.LittleEndian.AppendUint64(nil, length)
		if _, err := readHeader(bytes.NewReader(b), 1<<50); err == nil {
			t.Errorf("took a header of %d bytes", length)
		}
	}
	b := binary.LittleEndian.AppendUint64(nil, headerMost)
	if _, err := readHeader(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("got %v for a header that is longer than its file", err)
	}
}

func FuzzHeader(f *testing.F) {
	real, err := os.ReadFile("tiny/model.safetensors")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(real[:4096], int64(len(real)))
	f.Add(withHeader(`{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}`, 8), int64(80))
	f.Add([]byte{}, int64(0))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		tensors, err := readHeader(bytes.NewReader(b), size)
		if err != nil {
			return
		}
		var sum int64
		for _, x := range tensors {
			n := x.Offsets[1] - x.Offsets[0]
			if n < 0 {
				t.Fatalf("a tensor of %d bytes", n)
			}
			sum += n
		}
		if sum < 0 || sum > size {
			t.Fatalf("%d bytes of tensors in a file of %d", sum, size)
		}
	})
}

// On a machine that runs models as they are, keys and values have the length of the weights' floats.
func TestKVFollowsWeightsOnGPU(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		bytes map[string]int64
		want  int64
	}{
		{map[string]int64{"BF16": 100}, 2},
		{map[string]int64{"F32": 100}, 4},
		{map[string]int64{"F32": 10, "F16": 100}, 2},
		{map[string]int64{"U32": 1000, "BF16": 100}, 2},
		{map[string]int64{"U32": 1000}, 2},
	} {
		if got := (weights{byDType: c.bytes}).floatBytes(); got != c.want {
			t.Errorf("%v: got %d, want %d", c.bytes, got, c.want)
		}
	}
}
