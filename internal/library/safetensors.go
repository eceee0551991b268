package library

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// headerMost is the longest header that the format allows.
const headerMost = 100_000_000

// tensor is one entry of a header.
type tensor struct {
	DType   string  `json:"dtype"`
	Shape   []int64 `json:"shape"`
	Offsets []int64 `json:"data_offsets"`
}

// weights is what the headers of all files of a model say.
type weights struct {
	bytes   int64            // of all tensors
	byDType map[string]int64 // bytes
	experts int64            // bytes of those of which a token uses some only
	packed  int64            // bytes that hold several numbers in a word
	scaling int64            // bytes of what packed numbers are scaled by: no parameters of their own
}

// dtypeBits are the lengths of elements that the format knows.
func dtypeBits(name string) (int64, bool) {
	switch name {
	case "F4":
		return 4, true
	case "BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0":
		return 8, true
	case "U16", "I16", "F16", "BF16":
		return 16, true
	case "U32", "I32", "F32":
		return 32, true
	case "U64", "I64", "F64", "C64":
		return 64, true
	default:
		return 0, false
	}
}

// readWeights reads the headers of the weights, and checks that all are there that should be.
func readWeights(dir string, files fileSet) (weights, error) {
	w := weights{byDType: make(map[string]int64)}
	if err := checkIndex(dir, files); err != nil {
		return w, err
	}
	found := false
	for _, f := range files {
		if !isWeights(f.name) {
			continue
		}
		found = true
		if f.isGone {
			return w, badModel("%s is missing: the link leads nowhere", f.name)
		}
		if err := w.add(dir, f); err != nil {
			return w, badModel("%s %s", f.name, reason(err))
		}
	}
	if !found {
		return w, badModel("there are no weights in %s (model*.safetensors)", dir)
	}
	return w, nil
}

// checkIndex wants the files that the index names: a download that broke off has fewer, each of them whole.
func checkIndex(dir string, files fileSet) error {
	if !files.has(indexName) {
		return nil
	}
	data, err := files.read(dir, indexName, headerMost)
	if err != nil {
		return err
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return badModel("%s is no index of weights: %v", indexName, err)
	}
	missing := make(map[string]bool)
	for _, name := range index.WeightMap {
		if isWeights(name) && !files.has(name) {
			missing[name] = true
		}
	}
	if len(missing) == 0 {
		return nil
	}
	names := make([]string, 0, len(missing))
	for name := range missing {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) == 1 {
		return badModel("it is not complete: %s is missing", names[0])
	}
	return badModel("it is not complete: %s and %d more files are missing", names[0], len(names)-1)
}

// add takes in the header of one file. Its errors go on from the name of the file.
func (w *weights) add(dir string, f file) error {
	r, err := os.Open(filepath.Join(dir, f.name))
	if err != nil {
		return fmt.Errorf("cannot be read: %s", reason(err))
	}
	defer r.Close() //nolint:errcheck // only read
	tensors, err := readHeader(r, f.size)
	if err != nil {
		return err
	}
	for name, t := range tensors {
		n := t.Offsets[1] - t.Offsets[0]
		w.bytes += n
		w.byDType[t.DType] += n
		if isExpert(name) {
			w.experts += n
		}
		switch {
		case t.DType == "U32":
			w.packed += n
		case strings.HasSuffix(name, ".scales"), strings.HasSuffix(name, ".biases"):
			w.scaling += n
		}
	}
	return nil
}

var errNoSafetensors = errors.New("is not a safetensors file")

// readHeader reads and checks the header of a file of that many bytes. It takes memory only for what it has read.
func readHeader(r io.Reader, size int64) (map[string]tensor, error) {
	var prefix [8]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, errNoSafetensors
	}
	length := binary.LittleEndian.Uint64(prefix[:])
	if length < 2 || length > headerMost {
		return nil, errNoSafetensors
	}
	data := int64(length) + 8 // where the tensors begin
	if data > size {
		return nil, fmt.Errorf("is cut off: %d bytes, and its header alone takes %d", size, data)
	}
	header, err := io.ReadAll(io.LimitReader(r, int64(length)))
	if err != nil || uint64(len(header)) < length {
		return nil, fmt.Errorf("cannot be read: %s", reason(cmp.Or(err, io.ErrUnexpectedEOF)))
	}
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(header, &entries); err != nil || entries == nil {
		return nil, errNoSafetensors
	}
	delete(entries, "__metadata__")
	tensors := make(map[string]tensor, len(entries))
	for name, raw := range entries {
		var t tensor
		if err := json.Unmarshal(raw, &t); err != nil {
			return nil, fmt.Errorf("has a header that describes tensor %q wrongly", name)
		}
		if err := t.check(); err != nil {
			return nil, fmt.Errorf("has a header that is wrong: tensor %q %w", name, err)
		}
		tensors[name] = t
	}
	end, err := checkOffsets(tensors)
	if err != nil {
		return nil, err
	}
	if end > size-data {
		return nil, fmt.Errorf("is cut off: %d of %d bytes", size, data+end)
	}
	return tensors, nil
}

// check holds the offsets of a tensor against its shape. Element types that are not known are believed.
func (t tensor) check() error {
	if len(t.Offsets) != 2 || t.Offsets[0] < 0 || t.Offsets[1] < t.Offsets[0] || t.Offsets[1] > math.MaxInt64/4 {
		return errors.New("has no place")
	}
	elements := int64(1)
	for _, n := range t.Shape {
		if n < 0 || (n > 0 && elements > math.MaxInt64/64/n) {
			return errors.New("has an impossible shape")
		}
		elements *= n
	}
	bits, ok := dtypeBits(t.DType)
	if ok && (elements*bits+7)/8 != t.Offsets[1]-t.Offsets[0] {
		return errors.New("does not have the length of its shape")
	}
	return nil
}

// checkOffsets returns where the last tensor ends. None may lie over another: their sum would mean nothing.
func checkOffsets(tensors map[string]tensor) (int64, error) {
	sorted := make([]tensor, 0, len(tensors))
	for _, t := range tensors {
		sorted = append(sorted, t)
	}
	slices.SortFunc(sorted, func(a, b tensor) int {
		return cmp.Or(cmp.Compare(a.Offsets[0], b.Offsets[0]), cmp.Compare(a.Offsets[1], b.Offsets[1]))
	})
	end := int64(0)
	for _, t := range sorted {
		if t.Offsets[0] < end {
			return 0, errors.New("has a header that is wrong: tensors overlap")
		}
		end = t.Offsets[1]
	}
	return end, nil
}

// floatBytes is the length of the numbers that the model computes with where nothing converts them: of most of its
// floats that are not packed. It is 2 where it has none.
func (w weights) floatBytes() int64 {
	if w.byDType["F32"] > w.byDType["F16"]+w.byDType["BF16"] {
		return 4
	}
	return 2
}

// quantization names the precision of the weights.
func quantization(c modelConfig, w weights) string {
	for _, key := range []string{"quantization", "quantization_config"} {
		if bits := c.object(key).number("bits"); bits > 0 && bits <= 32 {
			return fmt.Sprintf("%d-bit", bits)
		}
	}
	best, label := int64(0), ""
	for _, d := range []struct{ dtype, label string }{
		{"BF16", "bf16"}, {"F16", "f16"}, {"F32", "f32"}, {"F8_E4M3", "f8"}, {"F8_E5M2", "f8"},
	} {
		if w.byDType[d.dtype] > best {
			best, label = w.byDType[d.dtype], d.label
		}
	}
	return label
}
