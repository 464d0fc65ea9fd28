package store

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	bolt "go.etcd.io/bbolt"
)

const (
	headFormat = 1
	headSize   = 1 + 16 + 3*8 + 4
)

// head is what a database says of itself.
type head struct {
	ID    [16]byte // random, made with the file
	Seq   uint64   // number of saves
	Count uint64   // of values
	Sum   uint64   // of the hashes of all values, see hashOf
}

// marshal returns h with its format before it and a checksum behind it.
func (h head) marshal() []byte {
	b := make([]byte, 0, headSize)
	b = append(b, headFormat)
	b = append(b, h.ID[:]...)
	for _, v := range []uint64{h.Seq, h.Count, h.Sum} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func parseHead(b []byte) (head, error) {
	n := len(b) - crc32.Size
	if n < 1 || crc32.ChecksumIEEE(b[:n]) != binary.BigEndian.Uint32(b[n:]) {
		return head{}, fmt.Errorf("%w: its head does not match its checksum", errDamaged)
	}
	if b[0] > headFormat {
		return head{}, fmt.Errorf("a newer weftd wrote it (format %d): install that version, or move the file away", b[0])
	}
	if b[0] != headFormat || len(b) != headSize {
		return head{}, fmt.Errorf("%w: its head is not understood", errDamaged)
	}
	h := head{ID: [16]byte(b[1:17])}
	for i, v := range []*uint64{&h.Seq, &h.Count, &h.Sum} {
		*v = binary.BigEndian.Uint64(b[17+8*i:])
	}
	return h, nil
}

// put does one write and keeps account of it.
func (h *head) put(values *bolt.Bucket, w Write) error {
	key := []byte(w.Key)
	if old := values.Get(key); old != nil {
		h.Sum -= hashOf(key, old)
		h.Count--
	}
	if w.Value == nil {
		return values.Delete(key)
	}
	h.Sum += hashOf(key, w.Value)
	h.Count++
	return values.Put(key, w.Value)
}

// hashOf hashes a value with its key.
func hashOf(key, value []byte) uint64 {
	b := make([]byte, 0, 4+len(key)+len(value))
	b = binary.BigEndian.AppendUint32(b, uint32(len(key)))
	b = append(append(b, key...), value...)
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:])
}

// markText returns the content of the mark file: a line that people can read, of
// the same length for every head, so that it can be written in one piece. A
// directory that outlives the machine's boot may be as old as the database.
func (s *Store) markText(h head) string {
	return fmt.Sprintf("weft addresses %x boot %s save %020d\n", h.ID, s.boot, h.Seq)
}

// bootID returns what the kernel drew when the machine started; empty when it
// does not say, and then no mark proves anything.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// checkMark reports whether the database is the newest there ever was: the
// mark was written after a save that the database has.
func (s *Store) checkMark() bool {
	if s.mark == "" || s.boot == "" {
		return false
	}
	b, err := os.ReadFile(s.mark)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("mark of the address database not readable", "file", s.mark, "err", err)
		}
		return false
	}
	marked := head{ID: s.head.ID}
	_, err = fmt.Sscanf(string(b), fmt.Sprintf("weft addresses %x boot %s save ", s.head.ID, s.boot)+"%d\n", &marked.Seq)
	return err == nil && string(b) == s.markText(marked) && marked.Seq <= s.head.Seq
}

// writeMark says in the mark file that what was saved is the newest. A mark
// that cannot be written is removed: an older one would vouch for old copies.
func (s *Store) writeMark() {
	if s.mark == "" || s.markLost {
		return
	}
	err := s.putMark()
	if err == nil {
		return
	}
	s.markLost = true
	s.log.Warn("mark of the address database not written: after a restart this host asks its peers before it gives addresses",
		"file", s.mark, "err", err, "remove", os.Remove(s.mark))
}

func (s *Store) putMark() (err error) {
	if s.markFile == nil {
		if err := os.MkdirAll(filepath.Dir(s.mark), dirMode); err != nil {
			return err
		}
		s.markFile, err = os.OpenFile(s.mark, os.O_WRONLY|os.O_CREATE, fileMode)
		if err != nil {
			return err
		}
		if err := s.markFile.Truncate(int64(len(s.markText(s.head)))); err != nil {
			return err
		}
	}
	_, err = s.markFile.WriteAt([]byte(s.markText(s.head)), 0)
	return err
}
