package fdb

import (
	"bytes"
	"testing"
)

func TestQueries(t *testing.T) {
	src := MAC{0x02, 1, 2, 3, 4, 5}
	want4 := unhex(t, `
		01005e000001 020102030405 0800
		46c0 0024 0000 0000 01 02 4413 00000000 e0000001 94040000
		11 64 ec1e 00000000 02 7d 0000`)
	want6 := unhex(t, `
		333300000001 020102030405 86dd
		60000000 0024 00 01 fe80000000000000000102fffe030405 ff020000000000000000000000000001
		3a 00 0502 0000 0100
		82 00 518e 2710 0000 00000000000000000000000000000000 02 7d 0000`)
	dst4, dst6 := make([]byte, 90), make([]byte, 90)
	for i := range dst4 {
		dst4[i], dst6[i] = 0xee, 0xee
	}
	n4, n6 := Queries(dst4, dst6, src)
	if !bytes.Equal(dst4[:n4], want4) {
		t.Errorf("IGMP %x\nwant %x", dst4[:n4], want4)
	}
	if !bytes.Equal(dst6[:n6], want6) {
		t.Errorf("MLD %x\nwant %x", dst6[:n6], want6)
	}
	if n6 != len(dst6) {
		t.Errorf("%d bytes of MLD", n6)
	}
	if n4, n6 := Queries(dst4[:len(want4)-1], dst6[:89], src); n4 != 0 || n6 != 0 {
		t.Errorf("%d and %d bytes into too few", n4, n6)
	}
	for _, frame := range [][]byte{dst4[:len(want4)], dst6} {
		_, _, kind, rest, _ := ether(frame)
		if m := parseMessage(kind, rest); m.kind != isRouter {
			t.Errorf("read back %+v", m)
		}
	}
}
