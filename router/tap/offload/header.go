// Package offload turns the super-frames of a TAP with IFF_VNET_HDR into plain
// Ethernet frames, and plain frames into super-frames.
//
// It owns the offload header (struct virtio_net_hdr), segmentation ([Cut]),
// coalescing ([Join]) and the Internet checksum (RFC 1071). It is pure: it
// opens no device, does not know tunnels, and does not decide where a frame
// goes or whether it fits. Nothing here allocates once it has been used.
package offload

import (
	"encoding/binary"
	"errors"
)

// HeaderLen is the length of a [Header] in bytes: what TUNSETVNETHDRSZ is told.
const HeaderLen = 10

// Flags of a [Header].
const (
	NeedsChecksum = 1 // the sum of CsumStart to the end is still to be put at CsumStart+CsumOffset
	DataValid     = 2 // somebody has checked the checksum
)

// GSO types of a [Header].
const (
	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOUDP   = 5    // UDP_L4: a datagram of each piece
	GSOECN   = 0x80 // with TCP: CWR is set, and belongs to the first segment alone
)

// Errors of [Header.Parse], [Cut.Start] and [Cut.Next]. Each is a reason to
// drop the frame and is returned as it is.
var (
	ErrShort    = errors.New("frame is shorter than its headers say")
	ErrGSOType  = errors.New("unknown kind of super-frame")
	ErrGSOSize  = errors.New("super-frame without a segment size")
	ErrHeaders  = errors.New("headers of the super-frame are not those of its kind")
	ErrChecksum = errors.New("place of the checksum is not in the frame")
	ErrBuffer   = errors.New("segment does not fit the buffer")
)

// Header is struct virtio_net_hdr, 10 bytes in host byte order. Offsets are
// relative to the Ethernet header.
type Header struct {
	Flags      uint8
	GSOType    uint8
	HdrLen     uint16 // bytes of all headers; a hint that nothing here relies on
	GSOSize    uint16 // bytes of payload of each segment but the last
	CsumStart  uint16
	CsumOffset uint16 // from CsumStart
}

// Parse reads the header at the beginning of b. The error is [ErrShort].
func (h *Header) Parse(b []byte) error {
	if len(b) < HeaderLen {
		return ErrShort
	}
	b = b[:HeaderLen]
	h.Flags, h.GSOType = b[0], b[1]
	h.HdrLen = binary.NativeEndian.Uint16(b[2:])
	h.GSOSize = binary.NativeEndian.Uint16(b[4:])
	h.CsumStart = binary.NativeEndian.Uint16(b[6:])
	h.CsumOffset = binary.NativeEndian.Uint16(b[8:])
	return nil
}

// Put writes the header to b, which has at least [HeaderLen] bytes.
func (h Header) Put(b []byte) {
	b = b[:HeaderLen]
	b[0], b[1] = h.Flags, h.GSOType
	binary.NativeEndian.PutUint16(b[2:], h.HdrLen)
	binary.NativeEndian.PutUint16(b[4:], h.GSOSize)
	binary.NativeEndian.PutUint16(b[6:], h.CsumStart)
	binary.NativeEndian.PutUint16(b[8:], h.CsumOffset)
}
