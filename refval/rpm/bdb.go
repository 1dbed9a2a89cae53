package rpm

import "encoding/binary"

// A hash of Berkeley DB (dbinc/db_page.h), in the byte order of the machine that wrote it.
const (
	bdbMagic    = 0x061561
	bdbHead     = 26 // bytes before a page's index
	bdbMeta     = 8  // page types
	bdbHash     = 13
	bdbUnsorted = 2
	bdbOverflow = 7
	bdbInline   = 1 // item types
	bdbOffPage  = 3
)

func bdbOrder(b []byte) binary.ByteOrder {
	if len(b) >= 512 {
		for _, o := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			if o.Uint32(b[12:]) == bdbMagic {
				return o
			}
		}
	}
	return nil
}

func isBDB(b []byte) bool { return bdbOrder(b) != nil }

type bdb struct {
	pages
	order binary.ByteOrder
	yield func([]byte, error) bool
}

func bdbHeaders(b []byte, yield func([]byte, error) bool) error {
	o := bdbOrder(b)
	size := int(o.Uint32(b[20:]))
	if b[25] != bdbMeta || b[24] != 0 || size < 512 || size > 64<<10 || size&(size-1) != 0 {
		return databaseError("rpmdb-bdb", 0, "meta page", "is of type %d with pages of %d bytes, want an unencrypted hash", b[25], size)
	}
	d := &bdb{pages{format: "rpmdb-bdb", data: b, size: size, used: map[int]bool{}}, o, yield}
	last := min(int(o.Uint32(b[32:])), d.count()-1)
	for n := 1; n <= last; n++ {
		page := b[n*size : (n+1)*size]
		if page[25] != bdbHash && page[25] != bdbUnsorted {
			continue
		}
		if err := d.page(n, page); err != nil {
			return err
		}
	}
	return nil
}

// page yields the values of one page of pairs of key and value.
func (d *bdb) page(number int, page []byte) error {
	at := number * d.size
	items := int(d.order.Uint16(page[20:]))
	if items%2 != 0 || bdbHead+2*items > len(page) {
		return databaseError(d.format, at, "hash page", "has %d items", items)
	}
	item := func(i int) []byte {
		from, to := int(d.order.Uint16(page[bdbHead+2*i:])), len(page)
		if i > 0 { // items are laid down from the end
			to = int(d.order.Uint16(page[bdbHead+2*(i-1):]))
		}
		if from < bdbHead+2*items || from >= to || to > len(page) {
			return nil
		}
		return page[from:to]
	}
	for i := 0; i < items; i += 2 {
		key, value := item(i), item(i+1)
		if key == nil || value == nil {
			return databaseError(d.format, at, "hash page", "has an item outside of itself")
		}
		if key[0] == bdbInline && len(key) == 5 && d.order.Uint32(key[1:]) == 0 {
			continue // the next package's number
		}
		var blob []byte
		switch {
		case value[0] == bdbInline:
			blob = value[1:]
		case value[0] == bdbOffPage && len(value) == 12:
			var err error
			if blob, err = d.overflow(int(d.order.Uint32(value[4:])), int(d.order.Uint32(value[8:]))); err != nil {
				return err
			}
		default:
			return databaseError(d.format, at, "hash page", "has an item of type %d", value[0])
		}
		if !d.yield(blob, nil) {
			return errStop
		}
	}
	return nil
}

// overflow gathers a value of that size from a chain of pages.
func (d *bdb) overflow(number, size int) ([]byte, error) {
	if size > MaxHeader || size > len(d.data) {
		return nil, databaseError(d.format, number*d.size, "value", "is %d bytes long, at most %d are accepted", size, min(MaxHeader, len(d.data)))
	}
	out := make([]byte, 0, size)
	for len(out) < size {
		page, err := d.get(number)
		if err != nil {
			return nil, err
		}
		n := int(d.order.Uint16(page[22:]))
		if page[25] != bdbOverflow || n < 1 || n > len(page)-bdbHead || len(out)+n > size {
			return nil, databaseError(d.format, number*d.size, "overflow page", "of type %d has %d bytes of a value of %d", page[25], n, size)
		}
		out = append(out, page[bdbHead:bdbHead+n]...)
		number = int(d.order.Uint32(page[16:]))
	}
	return out, nil
}
