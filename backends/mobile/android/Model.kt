package sparsecc.NAME

import java.io.File
import java.io.InputStream
import java.io.RandomAccessFile
import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.IntBuffer
import java.nio.LongBuffer
import java.nio.channels.FileChannel
import java.util.concurrent.ExecutionException
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import java.util.concurrent.Future
import java.util.concurrent.atomic.AtomicLong

/** What the model does not take, or why it does not load. The message says what to do. */
class ModelException(message: String) : RuntimeException(message)

/** Element types and the buffers that hold them: the last three are bytes. */
enum class ElementType(val bytes: Int) {
    FLOAT32(4), INT32(4), INT64(8), UINT8(1), INT8(1), BOOL(1)
}

/** An input or output. A dimension of -1 is open: [dimNames] has its name, and equal names are equal sizes. */
class Port internal constructor(
    val name: String,
    val type: ElementType,
    val dims: List<Long>,
    val dimNames: List<String?>,
) {
    override fun toString(): String =
        "$name: $type ${dims.indices.map { dimNames[it] ?: dims[it].toString() }}"
}

/**
 * Elements in row-major order, from the buffer's position to its limit: a FloatBuffer, IntBuffer, LongBuffer
 * or ByteBuffer. Direct buffers of the native byte order are read where they are, others are copied.
 */
class Tensor(val data: Buffer, vararg val dims: Long) {
    constructor(data: FloatArray, vararg dims: Long) : this(FloatBuffer.wrap(data), *dims)
}

/**
 * The model NAME.
 *
 *     Model.load(File("NAME.bin")).use { model ->
 *         val outputs = model.run(mapOf("image" to Tensor(pixels, 1, 3, 224, 224)))
 *     }
 *
 * One thread at a time uses it, and [close] ends it.
 */
class Model private constructor(private val weights: ByteBuffer, threads: Int) : AutoCloseable {
    val inputs: List<Port> = ports(0)
    val outputs: List<Port> = ports(1)
    private val pool = if (threads > 1) Pool(threads) else null
    private val open = AtomicLong()

    init {
        val handle = LongArray(1)
        val wrong = Native.create(weights, pool, handle)
        if (wrong != null) {
            pool?.close()
            throw ModelException(text(wrong))
        }
        open.set(handle[0])
    }

    /** Runs it on a tensor for every input, by name. */
    fun run(inputs: Map<String, Tensor>): Map<String, Tensor> {
        val unknown = inputs.keys - this.inputs.map { it.name }.toSet()
        if (unknown.isNotEmpty()) throw ModelException("there are no inputs $unknown; the model has ${this.inputs}")
        val given = this.inputs.map { inputs[it.name] ?: throw ModelException("the input ${it.name} is missing") }
        return outputs.map { it.name }.zip(run(given)).toMap()
    }

    /** Runs it on a tensor for every input, in the order of [inputs]; the outputs are in that of [outputs]. */
    fun run(inputs: List<Tensor>): List<Tensor> {
        val handle = open.get()
        if (handle == 0L) throw ModelException("the model is closed")
        if (inputs.size != this.inputs.size) throw ModelException("${inputs.size} tensors for ${this.inputs}")
        val data = inputs.mapIndexed { at, tensor -> readable(this.inputs[at], tensor) }
        val given = shapes(inputs.mapIndexed { at, tensor -> this.inputs[at].type to tensor.dims })
        val made = LongArray(outputs.size * Native.SHAPE)
        refused(Native.plan(handle, given, made))
        val dims = outputs.indices.map { at -> dims(made, at) }
        val results = outputs.mapIndexed { at, port -> ByteBuffer.allocateDirect(bytes(port, dims[at])).order(NATIVE) }
        refused(Native.run(handle, given, data.toTypedArray(), made, results.toTypedArray()))
        return outputs.mapIndexed { at, port -> Tensor(typed(port.type, results[at]), *dims[at]) }
    }

    /** For a model of one float input and output. */
    fun run(input: FloatBuffer, vararg dims: Long): FloatBuffer {
        val result = run(listOf(Tensor(input, *dims))).first().data
        return result as? FloatBuffer ?: throw ModelException("the first output is not of floats")
    }

    override fun close() {
        val handle = open.getAndSet(0)
        if (handle != 0L) Native.destroy(handle)
        pool?.close()
    }

    companion object {
        private val NATIVE: ByteOrder = ByteOrder.nativeOrder()
        private const val ALIGN = 64

        /** Loads the weights file, which is mapped and read where it lies. */
        @JvmStatic
        @JvmOverloads
        fun load(weights: File, threads: Int = 1): Model =
            RandomAccessFile(weights, "r").use { load(it.channel, 0, it.length(), threads) }

        /** Loads weights that are a part of a file, such as an asset that is not compressed. */
        @JvmStatic
        @JvmOverloads
        fun load(file: FileChannel, start: Long, length: Long, threads: Int = 1): Model {
            val mapped = file.map(FileChannel.MapMode.READ_ONLY, start, length)
            if (Native.misaligned(mapped) == 0L) return Model(mapped, threads)
            return Model(aligned(length).apply { put(mapped); flip() }, threads)
        }

        /** Loads weights of so many bytes into memory, such as an asset that is compressed. */
        @JvmStatic
        @JvmOverloads
        fun load(content: InputStream, threads: Int = 1): Model {
            val all = content.readBytes()
            return Model(aligned(all.size.toLong()).apply { put(all); flip() }, threads)
        }

        private fun aligned(length: Long): ByteBuffer {
            if (length > Int.MAX_VALUE - ALIGN) throw ModelException("the weights are larger than 2 GB")
            val room = ByteBuffer.allocateDirect(length.toInt() + ALIGN)
            val first = (ALIGN - Native.misaligned(room).toInt()) % ALIGN
            room.position(first).limit(first + length.toInt())
            return room.slice()
        }

        private fun text(bytes: ByteArray): String = String(bytes, Charsets.UTF_8)

        private fun refused(wrong: ByteArray?) {
            if (wrong != null) throw ModelException(text(wrong))
        }

        private fun ports(side: Int): List<Port> = (0 until Native.count(side)).map { at ->
            val shape = Native.shape(side, at)
            val names = (0 until shape[1].toInt()).map { dim -> Native.dimName(side, at, dim)?.let(::text) }
            Port(text(Native.name(side, at)), ElementType.values()[shape[0].toInt()], dims(shape, 0).toList(), names)
        }

        private fun dims(shapes: LongArray, at: Int): LongArray {
            val first = at * Native.SHAPE
            return shapes.copyOfRange(first + 2, first + 2 + shapes[first + 1].toInt())
        }

        private fun shapes(all: List<Pair<ElementType, LongArray>>): LongArray {
            val made = LongArray(all.size * Native.SHAPE)
            all.forEachIndexed { at, (type, dims) ->
                if (dims.size > Native.SHAPE - 2) throw ModelException("a tensor has ${dims.size} dimensions; 8 is the most")
                made[at * Native.SHAPE] = type.ordinal.toLong()
                made[at * Native.SHAPE + 1] = dims.size.toLong()
                dims.copyInto(made, at * Native.SHAPE + 2)
            }
            return made
        }

        private fun bytes(port: Port, dims: LongArray): Int {
            var count = port.type.bytes.toLong()
            for (dim in dims) {
                if (dim < 0 || (dim > 0 && count > Int.MAX_VALUE / dim))
                    throw ModelException("${port.name} with dims ${dims.toList()} does not fit into a buffer")
                count *= dim
            }
            return count.toInt()
        }

        /** The elements of a tensor where the model can read them. */
        private fun readable(port: Port, tensor: Tensor): Buffer {
            val type = port.type
            val held = when (tensor.data) {
                is FloatBuffer -> listOf(ElementType.FLOAT32)
                is IntBuffer -> listOf(ElementType.INT32)
                is LongBuffer -> listOf(ElementType.INT64)
                is ByteBuffer -> listOf(ElementType.UINT8, ElementType.INT8, ElementType.BOOL)
                else -> emptyList()
            }
            if (type !in held) throw ModelException("the input ${port.name} is $type, not a ${tensor.data.javaClass.simpleName}")
            val size = bytes(port, tensor.dims)
            if (size != tensor.data.remaining() * type.bytes)
                throw ModelException("the input ${port.name} has ${tensor.data.remaining()} elements, not those of ${tensor.dims.toList()}")
            if (tensor.data.isDirect && order(tensor.data) == NATIVE) return sliced(tensor.data)
            val copy = ByteBuffer.allocateDirect(size).order(NATIVE)
            when (val data = tensor.data) {
                is FloatBuffer -> copy.asFloatBuffer().put(data.duplicate())
                is IntBuffer -> copy.asIntBuffer().put(data.duplicate())
                is LongBuffer -> copy.asLongBuffer().put(data.duplicate())
                is ByteBuffer -> copy.put(data.duplicate()).rewind()
            }
            return copy
        }

        private fun order(data: Buffer): ByteOrder = when (data) {
            is FloatBuffer -> data.order()
            is IntBuffer -> data.order()
            is LongBuffer -> data.order()
            else -> NATIVE
        }

        private fun sliced(data: Buffer): Buffer = when (data) {
            is FloatBuffer -> data.slice()
            is IntBuffer -> data.slice()
            is LongBuffer -> data.slice()
            is ByteBuffer -> data.slice()
            else -> data
        }

        private fun typed(type: ElementType, data: ByteBuffer): Buffer = when (type) {
            ElementType.FLOAT32 -> data.asFloatBuffer()
            ElementType.INT32 -> data.asIntBuffer()
            ElementType.INT64 -> data.asLongBuffer()
            else -> data
        }
    }
}

/** Threads that the library's tasks run on, beside the one that calls. */
internal class Pool(threads: Int) {
    private val others = threads - 1
    private val executor: ExecutorService = Executors.newFixedThreadPool(others) { work ->
        Thread(work, "NAME").apply { isDaemon = true }
    }

    /** Called by the library. */
    @Suppress("unused")
    fun run(task: Long, data: Long, count: Long) {
        val next = AtomicLong()
        val work = Runnable {
            while (true) {
                val at = next.getAndIncrement()
                if (at >= count) break
                Native.task(task, data, at)
            }
        }
        val helpers: List<Future<*>> = List(minOf(others.toLong(), count - 1).toInt()) { executor.submit(work) }
        work.run()
        try {
            helpers.forEach { it.get() }
        } catch (error: ExecutionException) {
            throw error.cause ?: error
        }
    }

    fun close() {
        executor.shutdown()
    }
}
