package sparsecc.NAME

import java.nio.Buffer
import java.nio.ByteBuffer

/**
 * The functions of libNAME.so. Sides are 0 for inputs and 1 for outputs; a shape is ten numbers: type, rank
 * and eight dimensions; an error is the UTF-8 of a sentence, and null is none.
 */
internal object Native {
    const val SHAPE = 10

    init {
        System.loadLibrary("NAME")
    }

    external fun count(side: Int): Int

    external fun name(side: Int, at: Int): ByteArray

    external fun shape(side: Int, at: Int): LongArray

    external fun dimName(side: Int, at: Int, dim: Int): ByteArray?

    /** Bytes from the last multiple of 64 to where a direct buffer begins. */
    external fun misaligned(buffer: ByteBuffer): Long

    /** [pool] has a method run(task, data, count) that calls [task] for every number below count; or it is null. */
    external fun create(weights: ByteBuffer, pool: Any?, handle: LongArray): ByteArray?

    external fun plan(handle: Long, inShapes: LongArray, outShapes: LongArray): ByteArray?

    external fun run(
        handle: Long,
        inShapes: LongArray,
        inData: Array<Buffer>,
        outShapes: LongArray,
        outData: Array<Buffer>,
    ): ByteArray?

    external fun task(task: Long, data: Long, at: Long)

    external fun destroy(handle: Long)
}
