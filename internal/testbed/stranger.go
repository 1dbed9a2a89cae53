package testbed

import (
	"bytes"
	"encoding/binary"
)

// stranger returns a program that is in no package: the smallest ELF executable
// for x86-64 Linux that ends with a status.
func stranger(status byte) []byte {
	const base, headers = 0x400000, 64 + 56
	code := []byte{
		0xbf, status, 0, 0, 0, // mov edi, status
		0xb8, 60, 0, 0, 0, // mov eax, SYS_exit
		0x0f, 0x05, // syscall
	}
	size := uint64(headers + len(code))
	var file bytes.Buffer
	for _, v := range []any{
		[]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		uint16(2), uint16(62), uint32(1), // executable, x86-64, version
		uint64(base + headers), uint64(64), uint64(0), // entry, program headers, no sections
		uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), // load; read and execute
		uint64(0), uint64(base), uint64(base), size, size, uint64(4096),
		code,
	} {
		binary.Write(&file, binary.LittleEndian, v) // a buffer takes all
	}
	return file.Bytes()
}
