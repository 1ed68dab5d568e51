import CNAME
import Dispatch
import Foundation

/// What the model does not take, or why it does not load. The text says what to do.
public struct ModelError: Error, CustomStringConvertible {
    public let description: String
}

/// Element types, in the order of NAME.h.
public enum ElementType: Int32 {
    case float32, int32, int64, uint8, int8, bool

    var bytes: Int {
        switch self {
        case .float32, .int32: return 4
        case .int64: return 8
        case .uint8, .int8, .bool: return 1
        }
    }
}

/// An input or output. A dimension of -1 is open: `dimNames` has its name, and equal names are equal sizes.
public struct Port {
    public let name: String
    public let type: ElementType
    public let dims: [Int]
    public let dimNames: [String?]
}

/// Elements in row-major order.
public struct Tensor {
    public let type: ElementType
    public let dims: [Int]
    public let data: Data

    public init(type: ElementType, dims: [Int], data: Data) {
        self.type = type
        self.dims = dims
        self.data = data
    }

    public init(_ values: [Float], dims: [Int]) {
        self.init(type: .float32, dims: dims, data: values.withUnsafeBytes { Data($0) })
    }

    /// The elements of a tensor of floats.
    public var floats: [Float] {
        precondition(type == .float32, "the tensor is of \(type)")
        return data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }
}

/// The model NAME. One thread at a time uses it.
///
///     let model = try Model()
///     let outputs = try model.run(["image": Tensor(pixels, dims: [1, 3, 224, 224])])
public final class Model {
    public let inputs: [Port]
    public let outputs: [Port]
    private let weights: NSData
    private var handle: OpaquePointer?

    /// Loads the weights file of this package; with more than one thread on the threads of Dispatch.
    public convenience init(threads: Int = 1) throws {
        guard let url = Bundle.module.url(forResource: "NAME", withExtension: "bin") else {
            throw ModelError(description: "the weights NAME.bin are not in the package")
        }
        try self.init(weights: url, threads: threads)
    }

    /// Loads a weights file, which is mapped and read where it lies.
    public init(weights url: URL, threads: Int = 1) throws {
        weights = try NSData(contentsOf: url, options: .alwaysMapped)
        inputs = Model.ports(NAME_inputs)
        outputs = Model.ports(NAME_outputs)
        var host = NAME_host(
            alloc: { _, bytes in malloc(Int(bytes)) },
            free: { _, memory in Foundation.free(memory) },
            parallel: threads > 1 ? Model.parallel : nil,
            self: nil
        )
        var message = [CChar](repeating: 0, count: 1024)
        if NAME_create(weights.bytes, UInt64(weights.length), &host, &handle, &message, 1024) != 0 {
            throw ModelError(description: String(cString: message))
        }
    }

    deinit {
        NAME_destroy(handle)
    }

    /// Runs it on a tensor for every input, by name.
    public func run(_ inputs: [String: Tensor]) throws -> [String: Tensor] {
        let names = self.inputs.map { $0.name }
        if let unknown = inputs.keys.first(where: { !names.contains($0) }) {
            throw ModelError(description: "there is no input \(unknown); the model has \(names)")
        }
        let given = try names.map { name -> Tensor in
            guard let tensor = inputs[name] else { throw ModelError(description: "the input \(name) is missing") }
            return tensor
        }
        return Dictionary(uniqueKeysWithValues: zip(outputs.map { $0.name }, try run(given)))
    }

    /// Runs it on a tensor for every input, in the order of `inputs`; the outputs are in that of `outputs`.
    public func run(_ given: [Tensor]) throws -> [Tensor] {
        if given.count != inputs.count {
            throw ModelError(description: "\(given.count) tensors for \(inputs.count) inputs")
        }
        var values = try given.map(Model.value)
        var made = [NAME_tensor](repeating: NAME_tensor(), count: outputs.count)
        try check(NAME_plan(handle, values, &made))
        var results = made.map { Data(count: Model.bytes(of: $0)) }
        try Model.withPointers(given.map { $0.data as NSData }, &results) { read, write in
            for at in values.indices { values[at].data = UnsafeMutableRawPointer(mutating: read[at]) }
            for at in made.indices { made[at].data = write[at] }
            try check(NAME_run(handle, values, made))
        }
        return zip(made, results).map { value, data in
            Tensor(type: ElementType(rawValue: value.type)!, dims: Model.dims(of: value), data: data)
        }
    }

    private func check(_ status: Int32) throws {
        if status != 0 { throw ModelError(description: String(cString: NAME_error(handle))) }
    }

    /// Calls `task(data, i)` for every i below count on the threads of Dispatch.
    private static let parallel: @convention(c) (
        UnsafeMutableRawPointer?,
        (@convention(c) (UnsafeMutableRawPointer?, UInt64) -> Void)?,
        UInt64,
        UnsafeMutableRawPointer?
    ) -> UnsafeMutableRawPointer? = { _, task, count, data in
        DispatchQueue.concurrentPerform(iterations: Int(count)) { task!(data, UInt64($0)) }
        return nil
    }

    private static func ports(_ list: (UnsafeMutablePointer<UnsafePointer<NAME_port>?>?) -> Int32) -> [Port] {
        var first: UnsafePointer<NAME_port>?
        let count = Int(list(&first))
        return (0..<count).map { at in
            let port = first![at]
            let rank = Int(port.rank)
            let dims = withUnsafeBytes(of: port.dims) { Array($0.bindMemory(to: Int64.self)[0..<rank]).map { Int($0) } }
            let names = withUnsafeBytes(of: port.dim_names) {
                Array($0.bindMemory(to: UnsafePointer<CChar>?.self)[0..<rank]).map { $0.map { String(cString: $0) } }
            }
            return Port(name: String(cString: port.name), type: ElementType(rawValue: port.type)!, dims: dims, dimNames: names)
        }
    }

    /// A tensor as C has it, without its elements.
    private static func value(_ tensor: Tensor) throws -> NAME_tensor {
        var value = NAME_tensor()
        if tensor.dims.count > 8 || tensor.dims.contains(where: { $0 < 0 }) {
            throw ModelError(description: "a tensor has the dimensions \(tensor.dims); at most 8 are possible, none below 0")
        }
        value.type = tensor.type.rawValue
        value.rank = Int32(tensor.dims.count)
        withUnsafeMutableBytes(of: &value.dims) { to in
            for (at, dim) in tensor.dims.enumerated() { to.bindMemory(to: Int64.self)[at] = Int64(dim) }
        }
        if bytes(of: value) != tensor.data.count {
            throw ModelError(description: "a tensor has \(tensor.data.count) bytes, not those of \(tensor.dims) of \(tensor.type)")
        }
        return value
    }

    private static func dims(of value: NAME_tensor) -> [Int] {
        withUnsafeBytes(of: value.dims) { Array($0.bindMemory(to: Int64.self)[0..<Int(value.rank)]).map { Int($0) } }
    }

    /// Bytes of the elements; of more than there can be, -1.
    private static func bytes(of value: NAME_tensor) -> Int {
        var count = ElementType(rawValue: value.type)!.bytes
        for dim in dims(of: value) {
            let (next, overflow) = count.multipliedReportingOverflow(by: dim)
            if overflow { return -1 }
            count = next
        }
        return count
    }

    /// Calls `body` with where the elements of all inputs and outputs lie.
    private static func withPointers(
        _ inputs: [NSData],
        _ outputs: inout [Data],
        _ body: ([UnsafeRawPointer], [UnsafeMutableRawPointer?]) throws -> Void
    ) throws {
        let made = outputs.map { NSMutableData(length: max($0.count, 1))! }
        try withExtendedLifetime((inputs, made)) {
            try body(inputs.map { $0.bytes }, made.map { $0.mutableBytes })
        }
        outputs = zip(made, outputs).map { Data($0 as Data).prefix($1.count) }
    }
}
