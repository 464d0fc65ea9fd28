package proxy

import (
	"errors"
	"net/http"
	"slices"
)

// errFrame says that a body is not framed as RFC 9112 section 7.1 wants it.
var errFrame = errors.New("malformed chunked body")

// frame finds the end of a message's body among the bytes of a connection. It
// changes no byte.
type frame struct {
	kind frameKind
	left uint64 // of the body, or of the chunk

	// Of a chunked body.
	state  chunkState
	digits int  // of the size
	empty  bool // nothing but CR since the line began
}

type frameKind uint8

const (
	noBody frameKind = iota
	sizedBody
	chunkedBody
	endlessBody // until the connection ends
)

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExtension
	chunkData
	chunkEnd // the line break after the data
	trailer
)

// maxSizeDigits is more than any body has.
const maxSizeDigits = 15

func sized(n int64) frame {
	if n <= 0 {
		return frame{}
	}
	return frame{kind: sizedBody, left: uint64(n)}
}

// requestFrame returns how the body of a request is framed.
func requestFrame(r *http.Request) frame {
	if slices.Contains(r.TransferEncoding, "chunked") {
		return frame{kind: chunkedBody}
	}
	return sized(r.ContentLength)
}

// answerFrame returns how the body of an answer to a request is framed. One
// that takes the connection over is endless: 101, and the older form of the
// engine's, which is 200 and no length.
func answerFrame(method string, r *http.Response) frame {
	switch {
	case r.StatusCode == http.StatusSwitchingProtocols:
		return frame{kind: endlessBody}
	case method == http.MethodHead, r.StatusCode < 200, r.StatusCode == http.StatusNoContent, r.StatusCode == http.StatusNotModified:
		return frame{}
	case slices.Contains(r.TransferEncoding, "chunked"):
		return frame{kind: chunkedBody}
	case r.ContentLength < 0:
		return frame{kind: endlessBody}
	}
	return sized(r.ContentLength)
}

// take returns how many bytes at the beginning of p belong to the body, and
// whether it ends with them.
func (f *frame) take(p []byte) (n int, done bool, err error) {
	switch f.kind {
	case noBody:
		return 0, true, nil
	case endlessBody:
		return len(p), false, nil
	case sizedBody:
		n = int(min(uint64(len(p)), f.left))
		f.left -= uint64(n)
		return n, f.left == 0, nil
	case chunkedBody:
	}
	for n < len(p) {
		if f.state == chunkData {
			k := min(uint64(len(p)-n), f.left)
			n += int(k)
			if f.left -= k; f.left == 0 {
				f.state = chunkEnd
			}
			continue
		}
		done, err = f.step(p[n])
		n++
		if done || err != nil {
			return n, done, err
		}
	}
	return n, false, nil
}

// step takes one byte between the data of chunks.
func (f *frame) step(b byte) (done bool, err error) {
	switch f.state {
	case chunkSize:
		if d, ok := hexDigit(b); ok {
			if f.digits++; f.digits > maxSizeDigits {
				return false, errFrame
			}
			f.left = f.left<<4 | uint64(d)
			return false, nil
		}
		if f.digits == 0 || b != '\r' && b != '\n' && b != ';' && b != ' ' && b != '\t' {
			return false, errFrame
		}
		f.state = chunkExtension
		return f.step(b)
	case chunkExtension:
		if b != '\n' {
			return false, nil
		}
		f.digits, f.state = 0, chunkData
		if f.left == 0 {
			f.state, f.empty = trailer, true
		}
	case chunkData: // take does it in one go
	case chunkEnd:
		if b == '\n' {
			f.state = chunkSize
		} else if b != '\r' {
			return false, errFrame
		}
	case trailer:
		if b == '\n' {
			if f.empty {
				return true, nil
			}
			f.empty = true
		} else if b != '\r' {
			f.empty = false
		}
	}
	return false, nil
}

func hexDigit(b byte) (byte, bool) {
	switch {
	case '0' <= b && b <= '9':
		return b - '0', true
	case 'a' <= b && b <= 'f':
		return b - 'a' + 10, true
	case 'A' <= b && b <= 'F':
		return b - 'A' + 10, true
	}
	return 0, false
}
