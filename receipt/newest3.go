//go:build entryversion3

package receipt

const newest = 3
