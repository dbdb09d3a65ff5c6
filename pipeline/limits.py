"""How much one row may bring. Data is not trusted: what is beyond a limit is an error that says so.

The limits bound the memory and the time that a row can cost, whatever its bytes claim. docs/hostile_data.md
tells what each of them is for.
"""

CELL_BYTES = 64 * 2**20  # an image, mask, kernel or prompt as it is stored
IMAGE_PIXELS = 64_000_000  # of a file that is decoded; about the largest sensor of a camera
JPEG_SCANS = 100  # each costs a pass over the whole picture; cameras and optimisers write 1 to 20
TIFF_PARTS = (
    300_000  # strips or tiles, each of which costs a call; 64 megapixels in tiles of 16 x 16 have 250,000
)
RESTORED_PIXELS = 4096 * 4096  # of an image whose size the data decides: size null, or mode restore
RESTORED_SIDE = 16_384  # likewise; a picture one pixel thin is padded to a canvas of many more
PROMPT_CHARACTERS = 10_000  # a text encoder reads 77 tokens of it, after splitting all of it
KEYS_BYTES = 256 * 2**20  # the keys of one shard together
TAR_HEADER_BYTES = 64 * 2**10  # of one header, whose size is what it claims itself
MESSAGE_CHARACTERS = 1_000  # of an error row's message
