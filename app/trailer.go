package app

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
)

// The section that a signed program has last, and the name of the ELF note in it.
const (
	sectionName = ".note.keystead"
	noteOwner   = "keystead\x00\x00\x00\x00" // padded to 4 bytes; 9 count
	noteType    = 1
)

var le = binary.LittleEndian

// trailer returns what signing puts behind a file, and the section fields that lead to
// it: the ELF note, the names of the sections anew, and their table anew. Image and file
// are those of the file before it was signed. A file without sections gets a table.
func (i *Image) trailer(file io.ReaderAt, note []byte) ([]byte, fields, error) {
	old := i.fields()
	table, names, err := i.sections(file, old)
	if err != nil {
		return nil, fields{}, err
	}
	at := func(b []byte) uint64 { return uint64(i.size) + uint64(len(b)) }
	t := pad(nil, at(nil))
	noteAt := at(t)
	t = le.AppendUint32(t, uint32(len("keystead")+1))
	t = le.AppendUint32(t, uint32(len(note)))
	t = le.AppendUint32(t, noteType)
	t = append(t, noteOwner...)
	t = append(t, note...)
	t = append(t, make([]byte, -len(note)&3)...)
	noteEnd := at(t)

	now := fields{entry: sectionSize, string: old.string}
	if table == nil { // no sections: the empty one, and that of the names
		names = []byte("\x00.shstrtab\x00")
		table, now.string = make([]byte, 2*sectionSize), 1
		le.PutUint32(table[sectionSize:], 1)
		le.PutUint32(table[sectionSize+4:], uint32(elf.SHT_STRTAB))
		le.PutUint64(table[sectionSize+48:], 1)
	}
	own := names[:len(names):len(names)]
	namesAt := at(t)
	t = append(append(append(t, own...), sectionName...), 0)
	le.PutUint64(table[int(now.string)*sectionSize+24:], namesAt)
	le.PutUint64(table[int(now.string)*sectionSize+32:], at(t)-namesAt)
	t = pad(t, at(t))

	entry := make([]byte, sectionSize)
	le.PutUint32(entry, uint32(len(own)))
	le.PutUint32(entry[4:], uint32(elf.SHT_NOTE))
	le.PutUint64(entry[24:], noteAt)
	le.PutUint64(entry[32:], noteEnd-noteAt)
	le.PutUint64(entry[48:], 4)
	now.offset = at(t)
	t = append(append(t, table...), entry...)
	now.count = uint16(len(table)/sectionSize + 1)
	return t, now, nil
}

// pad fills up to 8 bytes what ends at an offset of the file.
func pad(b []byte, offset uint64) []byte { return append(b, make([]byte, -offset&7)...) }

// sections reads the table of sections and their names. A file that has none gives nil.
func (i *Image) sections(file io.ReaderAt, f fields) (table, names []byte, err error) {
	if f.offset == 0 && f.count == 0 {
		return nil, nil, nil
	}
	if f.entry != sectionSize || f.count == 0 || f.count >= maxSections || f.string == 0 || f.string >= f.count || f.offset > uint64(i.size) {
		return nil, nil, unsuitable("a table of 1 to 16,383 sections, with their names, or none", "%d of %d bytes, names in %d", f.count, f.entry, f.string)
	}
	table = make([]byte, int(f.count)*sectionSize)
	if err := readAt(file, table, int64(f.offset)); err != nil {
		return nil, nil, err
	}
	entry := table[int(f.string)*sectionSize:]
	offset, size := le.Uint64(entry[24:]), le.Uint64(entry[32:])
	if elf.SectionType(le.Uint32(entry[4:])) != elf.SHT_STRTAB || size == 0 || size > maxNames || offset > uint64(i.size) {
		return nil, nil, unsuitable("names of sections of 1 byte to 4 MiB", "%d bytes at %d", size, offset)
	}
	names = make([]byte, size)
	if err := readAt(file, names, int64(offset)); err != nil {
		return nil, nil, err
	}
	return table, names, nil
}

// readNote returns the note that a signed file ends with; nil if there is none.
func (i *Image) readNote(file io.ReaderAt) ([]byte, error) {
	f := i.fields()
	if f.entry != sectionSize || f.count < 2 || f.count > maxSections || f.offset > uint64(i.size) || f.offset+uint64(f.count)*sectionSize != uint64(i.size) {
		return nil, nil
	}
	entry := make([]byte, sectionSize)
	if err := readAt(file, entry, i.size-sectionSize); err != nil {
		return nil, err
	}
	offset, size := le.Uint64(entry[24:]), le.Uint64(entry[32:])
	if elf.SectionType(le.Uint32(entry[4:])) != elf.SHT_NOTE || size < 24 || size > MaxNote+32 || offset > uint64(i.size) {
		return nil, nil
	}
	b := make([]byte, size)
	if err := readAt(file, b, int64(offset)); err != nil {
		return nil, err
	}
	length := le.Uint32(b[4:])
	if le.Uint32(b) != uint32(len("keystead")+1) || le.Uint32(b[8:]) != noteType || !bytes.Equal(b[12:24], []byte(noteOwner)) || uint64(length) > size-24 {
		return nil, nil
	}
	return b[24 : 24+length], nil
}
