package mlxbridge

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxFrameBytes is the longest frame that either side accepts.
const maxFrameBytes = 64 << 20

// frameHead is the length in front of every frame: four bytes, little-endian.
const frameHead = 4

var errFrameTooLong = fmt.Errorf("frame is longer than %d bytes", maxFrameBytes)

// encodeFrame returns v as one frame. v is a value whose JSON is an object with a "type".
func encodeFrame(v any) ([]byte, error) {
	var b bytes.Buffer
	b.Write(make([]byte, frameHead))
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		return nil, fmt.Errorf("encode frame: %w", err)
	}
	frame := bytes.TrimRight(b.Bytes(), "\n")
	if len(frame)-frameHead > maxFrameBytes {
		return nil, errFrameTooLong
	}
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)-frameHead))
	return frame, nil
}

// frameReader reads the frames of a worker. Not safe for concurrent use.
type frameReader struct {
	r   *bufio.Reader
	buf bytes.Buffer
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next frame. It is io.EOF between frames at the end, and any other error means that the worker is
// broken. Memory grows with the bytes that came, not with the length that was announced.
func (f *frameReader) next() (*workerFrame, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("read frame length: %w", err)
	}
	size := int64(binary.LittleEndian.Uint32(head[:]))
	if size > maxFrameBytes {
		return nil, errFrameTooLong
	}
	f.buf.Reset()
	if _, err := io.CopyN(&f.buf, f.r, size); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read frame: %w", err)
	}
	frame, err := parseFrame(f.buf.Bytes())
	if f.buf.Cap() > 1<<20 {
		f.buf = bytes.Buffer{}
	}
	return frame, err
}

func parseFrame(body []byte) (*workerFrame, error) {
	frame := &workerFrame{}
	if err := json.Unmarshal(body, frame); err != nil {
		return nil, fmt.Errorf("parse frame: %w", err)
	}
	if frame.Type == "" {
		return nil, errors.New("parse frame: it has no type")
	}
	return frame, nil
}
