package kernel

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"net/netip"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Exact bytes, a field per line.
func TestFrames(t *testing.T) {
	mac := MAC{0x02, 1, 2, 3, 4, 5}
	v4, v6 := netip.MustParseAddr("10.32.0.1"), netip.MustParseAddr("fd00::9")
	tests := []struct {
		name string
		got  []byte
		want []string
	}{
		{"arping -A", gratuitousARP(mac, v4, arpReply), []string{
			"ffffffffffff", "020102030405", "0806", // to, from, ARP
			"0001", "0800", "06", "04", "0002", // Ethernet, IPv4, lengths, reply
			"020102030405", "0a200001", "020102030405", "0a200001",
		}},
		{"arping -U", gratuitousARP(mac, v4, arpRequest), []string{
			"ffffffffffff", "020102030405", "0806",
			"0001", "0800", "06", "04", "0001",
			"020102030405", "0a200001", "000000000000", "0a200001",
		}},
		{"ndsend", neighbourAdvertisement(mac, v6), []string{
			"333300000001", "020102030405", "86dd",
			"60000000", "0020", "3a", "ff", // length 32, ICMPv6, hop limit
			"fd000000000000000000000000000009", "ff020000000000000000000000000001",
			"88", "00", "5483", "20000000", // advertisement, checksum, override
			"fd000000000000000000000000000009",
			"0201", "020102030405", // target link-layer address
		}},
	}
	for _, tt := range tests {
		var want string
		for _, s := range tt.want {
			want += s
		}
		if diff := cmp.Diff(want, hex.EncodeToString(tt.got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestDump(t *testing.T) {
	for _, interrupted := range []int{0, 1, dumpTries - 1, dumpTries} {
		asked := 0
		list, err := dump(func() ([]int, error) {
			if asked++; asked <= interrupted {
				return []int{1}, netlink.ErrDumpInterrupted
			}
			return []int{1, 2}, nil
		})
		if interrupted < dumpTries && (err != nil || len(list) != 2) {
			t.Errorf("%d interruptions: %v, %v", interrupted, list, err)
		}
		if interrupted == dumpTries && (!errors.Is(err, netlink.ErrDumpInterrupted) || list != nil) {
			t.Errorf("a list with holes: %v, %v", list, err)
		}
	}
}

func TestTranslate(t *testing.T) {
	for _, tt := range []struct {
		in   error
		want error // nil: neither
	}{
		{unix.ENODEV, fs.ErrNotExist},
		{unix.ESRCH, fs.ErrNotExist},
		{unix.ENOENT, fs.ErrNotExist},
		{unix.ENXIO, fs.ErrNotExist},
		{netlink.LinkNotFoundError{}, fs.ErrNotExist},
		{unix.EEXIST, fs.ErrExist},
		{unix.EOPNOTSUPP, errors.ErrUnsupported},
		{unix.EPERM, fs.ErrPermission},
		{unix.EBUSY, nil},
	} {
		got := translate(tt.in)
		if !errors.Is(got, tt.in) {
			t.Errorf("%T: the original is lost", tt.in)
		}
		for _, like := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, errors.ErrUnsupported} {
			if errors.Is(got, like) != errors.Is(tt.want, like) {
				t.Errorf("%v: is %v: %v", tt.in, like, errors.Is(got, like))
			}
		}
	}
	if translate(nil) != nil {
		t.Error("an error from nothing")
	}
}

func FuzzClassify(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWNEIGH), []byte{7, 0, 0, 0, 1, 0, 0, 0, 0x80, 0, 2, 0})
	f.Add(uint16(unix.RTM_DELLINK), []byte{})
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		e := classify(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind}, Data: data})
		if e&(e-1) != 0 || e > NeighChanged {
			t.Errorf("event %b", e)
		}
	})
}
