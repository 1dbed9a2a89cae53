package segment

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The mark says how far the log was synced: crc32c (4) of the rest, number (8) of the
// segment, offset (8) in it. It is written after the sync and not synced itself.
const markSize = 4 + 8 + 8

func (l *Log) markPath() string { return l.opts.FS.PathJoin(l.opts.Dir, "mark") }

func (l *Log) writeMark() error {
	if l.mark == nil {
		var err error
		if l.mark, err = l.opts.FS.OpenReadWrite(l.markPath(), vfs.WriteCategoryUnspecified); err != nil {
			return err
		}
	}
	b := make([]byte, 4, markSize)
	b = binary.BigEndian.AppendUint64(b, l.last().number)
	b = binary.BigEndian.AppendUint64(b, l.synced)
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	_, err := l.mark.WriteAt(b, 0)
	return err
}

// readMark returns zeros where there is no mark, or one that did not reach the disk.
func (l *Log) readMark() (number, offset uint64, err error) {
	f, err := l.opts.FS.Open(l.markPath())
	if errors.Is(err, os.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	b := make([]byte, markSize)
	_, err = f.ReadAt(b, 0)
	if err = errors.Join(notEnd(err), f.Close()); err != nil || binary.BigEndian.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return 0, 0, err
	}
	return binary.BigEndian.Uint64(b[4:]), binary.BigEndian.Uint64(b[12:]), nil
}

func notEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
